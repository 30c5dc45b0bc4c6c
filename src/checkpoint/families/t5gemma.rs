//! T5Gemma: Gemma 2's layers as an encoder and a decoder.

use super::gemma2;
use super::profile::*;

pub const PROFILE: Profile = Profile {
    name: "T5Gemma",
    models: &[Model::text("t5gemma")],
    stacks: &["encoder", "decoder"],
    norms: T5_NORMS,
    encoder_decoder: Some(EncoderDecoderProfile {
        encoder: AttentionProfile { bidirectional: Bidirectional::Always, ..GEMMA2_ATTENTION },
        cross: Cross::SubLayer,
        one_embedding: false,
        end_of_image: None,
        head: "lm_head.out_proj",
    }),
    // Only what all of them have in common is known here.
    releases: &[],
    ..gemma2::PROFILE
};
