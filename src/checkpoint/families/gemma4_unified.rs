//! Gemma 4 Unified (12B): Gemma 4's layers without per-layer inputs and experts.

use super::gemma4;
use super::profile::*;

pub const PROFILE: Profile = Profile {
    name: "Gemma 4 Unified",
    models: &[
        Model::text("gemma4_unified_text"),
        Model::around("gemma4_unified_text", "gemma4_unified"),
    ],
    mlp: MlpProfile { double_wide: true, ..PLAIN_MLP },
    per_layer_inputs: None,
    attention: Ok(AttentionProfile {
        sliding: Some(Sliding {
            window: 1024,
            full_every: 6,
            reads_pattern: false,
            last_full: true,
            rope_theta: Some(10_000.0),
        }),
        ..gemma4::ATTENTION
    }),
    releases: &[],
    ..gemma4::PROFILE
};
