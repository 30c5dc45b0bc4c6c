//! EmbeddingGemma 2: Gemma 4's layers, seen from both sides, with per-layer inputs that are projected alone.

use super::gemma4;
use super::profile::*;

pub const PROFILE: Profile = Profile {
    name: "EmbeddingGemma 2",
    models: &[
        Model::text("embedding_gemma2_text"),
        Model::around("embedding_gemma2_text", "embedding_gemma2"),
    ],
    sizes: Sizes {
        hidden_size: 512,
        intermediate_size: 2048,
        num_hidden_layers: 24,
        vocab_size: 262_144,
    },
    mlp: PLAIN_MLP,
    per_layer_inputs: Some(PerLayerProfile {
        size: 512,
        vocab_size: None,
        guarded: false,
        names: PerLayerNames { model: "ple.", layer: "ple_block." },
    }),
    embedding_dim: Some(768),
    attention: Ok(AttentionProfile {
        num_attention_heads: 4,
        num_key_value_heads: 2,
        bidirectional: Bidirectional::Always,
        global: Some(GlobalHeads {
            head_dim: 512,
            num_key_value_heads: Some(1),
            always: true,
            keys_are_values: When::Never,
        }),
        shared_layers: None,
        sliding: Some(Sliding {
            window: 512,
            full_every: 6,
            reads_pattern: true,
            last_full: true,
            rope_theta: Some(10_000.0),
        }),
        proportional: None,
        ..gemma4::ATTENTION
    }),
    releases: &[Release {
        global: Some([1, 512]),
        per_layer_input: 512,
        ..Release::new("EmbeddingGemma 2", [512, 2048, 24], [4, 2, 256], Some(512)).bidirectional()
    }],
    ..gemma4::PROFILE
};
