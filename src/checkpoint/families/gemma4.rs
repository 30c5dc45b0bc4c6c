//! Gemma 4: text, multimodal and Unified; dense, with per-layer inputs (E2B, E4B), and with experts (26B-A4B).

use super::profile::*;

pub const PROFILE: Profile = Profile {
    mlp: MlpProfile { double_wide: true, experts: When::Asked, ..PLAIN_MLP },
    // Gemma4RMSNorm multiplies by the weight itself.
    norm_weight: NormWeight::Plain,
    per_layer_inputs: Some(PerLayerProfile {
        size: 256,
        vocab_size: Some(262_144),
        guarded: false,
        names: PER_LAYER_NAMES,
    }),
    layer_scalar: true,
    final_softcap: Softcap::Optional,
    attention: Ok(ATTENTION),
    releases: &[
        Release {
            full_every: Some(5),
            global: Some([1, 512]),
            shared_layers: 20,
            double_wide: true,
            per_layer_input: 256,
            final_softcap: Some(30.0),
            ..Release::new("Gemma 4 E2B", [1536, 6144, 35], [8, 1, 256], Some(512))
        },
        Release {
            global: Some([2, 512]),
            shared_layers: 18,
            per_layer_input: 256,
            final_softcap: Some(30.0),
            ..Release::new("Gemma 4 E4B", [2560, 10240, 42], [8, 2, 256], Some(512))
        },
        Release {
            global: Some([4, 512]),
            keys_are_values: true,
            final_softcap: Some(30.0),
            ..Release::new("Gemma 4 31B", [5376, 21504, 60], [32, 16, 256], Some(1024))
        },
        Release { final_softcap: Some(30.0), ..A4B },
    ],
    ..decoder(
        "Gemma 4",
        &[Model::text("gemma4_text"), Model::around("gemma4_text", "gemma4")],
        Sizes {
            hidden_size: 2304,
            intermediate_size: 9216,
            num_hidden_layers: 30,
            vocab_size: 262_144,
        },
    )
};

/// The release with experts, whose layers DiffusionGemma has too.
pub const A4B: Release = Release {
    global: Some([2, 512]),
    keys_are_values: true,
    experts: Some([128, 8, 704]),
    ..Release::new("Gemma 4 26B-A4B", [2816, 2112, 30], [16, 8, 256], Some(1024))
};

/// Gemma 4's attention, which EmbeddingGemma 2 and Gemma 3n differ from in little.
pub const ATTENTION: AttentionProfile = AttentionProfile {
    // The norm of the queries has the scale.
    scaling: Scaling::One,
    softcap: Softcap::Unread,
    qk_norm: true,
    v_norm: true,
    bidirectional: Bidirectional::HalfWindowInclusive,
    global: Some(GlobalHeads {
        head_dim: 512,
        num_key_value_heads: None,
        always: false,
        keys_are_values: When::Asked,
    }),
    shared_layers: Some(0),
    sliding: Some(Sliding {
        window: 512,
        full_every: 6,
        reads_pattern: false,
        last_full: true,
        rope_theta: Some(10_000.0),
    }),
    rope_theta: 1_000_000.0,
    proportional: Some(0.25),
    ..GEMMA2_ATTENTION
};
