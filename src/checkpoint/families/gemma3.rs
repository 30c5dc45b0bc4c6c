//! Gemma 3, text and multimodal, EmbeddingGemma, MedGemma, ShieldGemma 2.

use super::profile::*;

pub const PROFILE: Profile = Profile {
    name: "Gemma 3",
    models: &[
        Model::text("gemma3_text"),
        Model::around("gemma3_text", "gemma3"),
        Model::around("gemma3_text", "shieldgemma2"),
    ],
    stacks: &[""],
    activation: ActivationRule::HiddenActivation,
    sizes: Sizes {
        hidden_size: 2304,
        intermediate_size: 9216,
        num_hidden_layers: 26,
        vocab_size: 262_208,
    },
    mlp: PLAIN_MLP,
    norms: FOUR_NORMS,
    final_softcap: Softcap::Optional,
    attention: Ok(AttentionProfile {
        // transformers' attention of Gemma 3 has no soft-cap, whatever a config says.
        softcap: Softcap::Unread,
        qk_norm: true,
        // EmbeddingGemma.
        bidirectional: true,
        sliding: Some(Sliding {
            window: 4096,
            full_every: 6,
            reads_pattern: true,
            rope_theta: Some(10_000.0),
        }),
        rope_theta: 1_000_000.0,
        ..GEMMA2_ATTENTION
    }),
};
