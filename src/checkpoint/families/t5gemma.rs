//! T5Gemma: Gemma 2's layers as an encoder and a decoder.

use super::gemma2;
use super::profile::*;

pub const PROFILE: Profile = Profile {
    name: "T5Gemma",
    models: &[Model::text("t5gemma")],
    stacks: &["encoder", "decoder"],
    attention: Err("T5Gemma's encoder is not part of the model here"),
    // Of blocks alone there is nothing to judge but their shapes.
    releases: &[],
    ..gemma2::PROFILE
};
