//! Gemma 3n: E2B and E4B.

use super::gemma4;
use super::profile::*;

pub const PROFILE: Profile = Profile {
    name: "Gemma 3n",
    models: &[Model::text("gemma3n_text"), Model::around("gemma3n_text", "gemma3n")],
    sizes: Sizes {
        hidden_size: 2048,
        intermediate_size: 16384,
        num_hidden_layers: 35,
        vocab_size: 262_400,
    },
    mlp: MlpProfile { sparsity: true, ..PLAIN_MLP },
    per_layer_inputs: Some(PerLayerProfile {
        size: 256,
        vocab_size: Some(262_144),
        guarded: true,
        names: PER_LAYER_NAMES,
    }),
    layer_scalar: false,
    altup: Some(AltUpProfile {
        inputs: 4,
        active: 0,
        coef_clip: 120.0,
        correct_scale: true,
        laurel_rank: 64,
    }),
    final_softcap: Softcap::Default(30.0),
    attention: Ok(AttentionProfile {
        num_key_value_heads: 2,
        bidirectional: Bidirectional::No,
        global: None,
        shared_layers: Some(15),
        sliding: Some(Sliding {
            window: 512,
            full_every: 5,
            reads_pattern: false,
            last_full: false,
            rope_theta: Some(10_000.0),
        }),
        proportional: None,
        ..gemma4::ATTENTION
    }),
    releases: &[
        Release {
            shared_layers: 10,
            sparse_layers: 10,
            per_layer_input: 256,
            ..Release::new("Gemma 3n E2B", [2048, 8192, 30], [8, 2, 256], Some(512))
        },
        Release {
            shared_layers: 15,
            sparse_layers: 10,
            per_layer_input: 256,
            ..Release::new("Gemma 3n E4B", [2048, 16384, 35], [8, 2, 256], Some(512))
        },
    ],
    ..gemma4::PROFILE
};
