//! RecurrentGemma (Griffin, De et al. 2024, <https://arxiv.org/abs/2402.19427>): two recurrent layers before every one
//! with attention to a window, and biases in the MLP.

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
    norms: NormNames {
        input: "temporal_pre_norm",
        post_attention: None,
        pre_mlp: "channel_pre_norm",
        post_mlp: None,
        last: "final_norm",
    },
    embedding_scale: EmbeddingScale::Bf16,
    final_softcap: Softcap::Always(30.0),
    attention: Ok(AttentionProfile {
        name: "temporal_block",
        num_attention_heads: 10,
        heads_by_size: true,
        output_bias: true,
        scaling: Scaling::HeadDim,
        softcap: Softcap::Unread,
        sliding: Some(Sliding {
            window: 2048,
            full_every: 0,
            reads_pattern: false,
            last_full: false,
            rope_theta: None,
        }),
        window_key: "attention_window_size",
        recurrent: Some(RecurrentProfile {
            block_types: &[BlockType::Recurrent, BlockType::Recurrent, BlockType::Attention],
            conv_width: 4,
        }),
        partial: Some(0.5),
        ..GEMMA2_ATTENTION
    }),
    // None of their configs has been seen here.
    releases: &[],
    ..gemma2::PROFILE
};
