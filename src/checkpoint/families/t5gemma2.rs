//! T5Gemma 2: Gemma 3's layers as an encoder and a decoder, whose attention to itself and to the encoder is one.

use super::gemma3;
use super::profile::*;

pub const PROFILE: Profile = Profile {
    name: "T5Gemma 2",
    models: &[Model::text("t5gemma2")],
    stacks: &["encoder", "decoder"],
    norms: T5_NORMS,
    attention: Ok(DECODER),
    encoder_decoder: Some(EncoderDecoderProfile {
        encoder: AttentionProfile { bidirectional: Bidirectional::AlwaysHalved, ..DECODER },
        cross: Cross::Merged,
        one_embedding: true,
        end_of_image: Some(256_000),
        head: "lm_head.out_proj",
    }),
    // Only what all of them have in common is known here.
    releases: &[],
    ..gemma3::PROFILE
};

/// Gemma 3's, which sees earlier positions only.
const DECODER: AttentionProfile =
    AttentionProfile { bidirectional: Bidirectional::No, ..gemma3::ATTENTION };
