//! DiffusionGemma (26B-A4B): Gemma 4 with experts, which reads a text as a causal model and writes a canvas as another.

use super::gemma4;
use super::profile::*;

pub const PROFILE: Profile = Profile {
    name: "DiffusionGemma",
    models: &[Model::around("diffusion_gemma_text", "diffusion_gemma")],
    mlp: MlpProfile { experts: When::Always, ..PLAIN_MLP },
    per_layer_inputs: None,
    // Both passes have the same weights but for these; the file has those weights once, with the decoder.
    scalars: Some(("decoder.", "encoder.language_model.")),
    left_out: Some(LeftOut {
        sentence: "DiffusionGemma's encoder is computed, which reads a text from left to right; the decoder, which writes \
                   its canvas, is not run",
        parts: &["self_conditioning.", "layer_scalar"],
    }),
    final_softcap: Softcap::Default(30.0),
    attention: Ok(AttentionProfile {
        global: Some(GlobalHeads {
            head_dim: 512,
            num_key_value_heads: None,
            always: true,
            keys_are_values: When::Always,
        }),
        shared_layers: None,
        ..gemma4::ATTENTION
    }),
    releases: &[Release { name: "DiffusionGemma 26B-A4B", ..gemma4::A4B }],
    ..gemma4::PROFILE
};
