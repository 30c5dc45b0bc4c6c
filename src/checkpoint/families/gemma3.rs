//! Gemma 3, text and multimodal, EmbeddingGemma, MedGemma, ShieldGemma 2.

use super::profile::*;

pub const PROFILE: Profile = Profile {
    final_softcap: Softcap::Optional,
    attention: Ok(ATTENTION),
    releases: &[
        Release::new("Gemma 3 270M", [640, 2048, 18], [4, 1, 256], Some(512)),
        Release::new("Gemma 3 1B", [1152, 6912, 26], [4, 1, 256], Some(512)),
        Release::new("Gemma 3 4B", [2560, 10240, 34], [8, 4, 256], Some(1024)).rope_factor(8.0),
        Release::new("Gemma 3 12B", [3840, 15360, 48], [16, 8, 256], Some(1024)).rope_factor(8.0),
        Release::new("Gemma 3 27B", [5376, 21504, 62], [32, 16, 128], Some(1024))
            .scalar(168.0)
            .rope_factor(8.0),
        Release::new("EmbeddingGemma 300M", [768, 1152, 24], [3, 1, 256], Some(512))
            .bidirectional(),
    ],
    ..decoder(
        "Gemma 3",
        &[
            Model::text("gemma3_text"),
            Model::around("gemma3_text", "gemma3"),
            Model::around("gemma3_text", "shieldgemma2"),
        ],
        Sizes {
            hidden_size: 2304,
            intermediate_size: 9216,
            num_hidden_layers: 26,
            vocab_size: 262_208,
        },
    )
};

/// Gemma 3's attention.
pub const ATTENTION: AttentionProfile = AttentionProfile {
    // transformers' attention of Gemma 3 has no soft-cap, whatever a config says.
    softcap: Softcap::Unread,
    qk_norm: true,
    // EmbeddingGemma.
    bidirectional: Bidirectional::HalfWindow,
    sliding: Some(Sliding {
        window: 4096,
        full_every: 6,
        reads_pattern: true,
        last_full: false,
        rope_theta: Some(10_000.0),
    }),
    rope_theta: 1_000_000.0,
    ..GEMMA2_ATTENTION
};
