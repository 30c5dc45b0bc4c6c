//! RecurrentGemma (Griffin): biases in the MLP, recurrent layers between attention layers.

use super::gemma2;
use super::profile::*;

pub const PROFILE: Profile = Profile {
    name: "RecurrentGemma",
    models: &[Model::text("recurrent_gemma")],
    sizes: Sizes {
        hidden_size: 2560,
        intermediate_size: 3 * 2560,
        num_hidden_layers: 26,
        vocab_size: 256_000,
    },
    // RecurrentGemmaMlp: self.intermediate_size = config.intermediate_size // 2.
    mlp: MlpProfile { name: "mlp_block", bias: true, counts_gate_and_up: true, ..PLAIN_MLP },
    // Its MLP is fed by the one norm that is read here.
    norms: NormNames {
        input: "temporal_pre_norm",
        post_attention: None,
        pre_mlp: "channel_pre_norm",
        post_mlp: None,
    },
    attention: Err("RecurrentGemma's first layer is recurrent"),
    // Of blocks alone there is nothing to judge but their shapes.
    releases: &[],
    ..gemma2::PROFILE
};
