//! Gemma 1, CodeGemma, and the text part of PaliGemma 1.

use super::profile::*;

pub const PROFILE: Profile = Profile {
    activation: ActivationRule::LegacyHiddenAct,
    // The norm behind attention, by its name, is the one in front of the MLP.
    norms: NormNames {
        input: "input_layernorm",
        post_attention: None,
        pre_mlp: "post_attention_layernorm",
        post_mlp: None,
        last: "norm",
    },
    attention: Ok(AttentionProfile {
        num_attention_heads: 16,
        num_key_value_heads: 16,
        head_dim: 256,
        scaling: Scaling::HeadDim,
        softcap: Softcap::Unread,
        sliding: None,
        ..GEMMA2_ATTENTION
    }),
    releases: &[
        Release::new("Gemma 1 2B", [2048, 16384, 18], [8, 1, 256], None),
        Release::new("Gemma 1 7B", [3072, 24576, 28], [16, 16, 256], None),
    ],
    ..decoder(
        "Gemma 1",
        &[Model::text("gemma"), paligemma("gemma")],
        Sizes {
            hidden_size: 3072,
            intermediate_size: 24576,
            num_hidden_layers: 28,
            vocab_size: 256_000,
        },
    )
};
