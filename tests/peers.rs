//! Against candle-transformers, in process: its Gemma 2 and Gemma 3 with one layer whose attention
//! is silenced, so that the logits show the MLP. Its config is the switch.

mod common;

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::{gemma2, gemma3};
use common::rel_l2;
use gemma_mlp::model::RmsNorm;
use gemma_mlp::{Gelu, gemma_mlp};
use std::collections::HashMap;

const HIDDEN: usize = 32;
const INTERMEDIATE: usize = 48;
const VOCAB: usize = 40;
const EPS: f64 = 1e-6;
const TOKEN: u32 = 7;

fn weights() -> HashMap<String, Tensor> {
    let matrix = |rows: usize, columns: usize, scale: f32| {
        Tensor::randn(0f32, scale, (rows, columns), &Device::Cpu).unwrap()
    };
    let norm = |n: usize| Tensor::randn(0f32, 0.3, n, &Device::Cpu).unwrap();
    let mut all = HashMap::new();
    let mut add = |name: &str, t: Tensor| all.insert(format!("model.{name}.weight"), t);
    add("embed_tokens", matrix(VOCAB, HIDDEN, 0.2));
    add("norm", norm(HIDDEN));
    for name in [
        "input_layernorm",
        "post_attention_layernorm",
        "pre_feedforward_layernorm",
        "post_feedforward_layernorm",
    ] {
        add(&format!("layers.0.{name}"), norm(HIDDEN));
    }
    for name in ["q_proj", "k_proj", "v_proj"] {
        add(&format!("layers.0.self_attn.{name}"), matrix(8, HIDDEN, 0.2));
    }
    for name in ["q_norm", "k_norm"] {
        add(&format!("layers.0.self_attn.{name}"), norm(8));
    }
    add("layers.0.self_attn.o_proj", matrix(HIDDEN, 8, 0.0));
    add("layers.0.mlp.gate_proj", matrix(INTERMEDIATE, HIDDEN, 0.4));
    add("layers.0.mlp.up_proj", matrix(INTERMEDIATE, HIDDEN, 0.3));
    add("layers.0.mlp.down_proj", matrix(HIDDEN, INTERMEDIATE, 0.3));
    all
}

/// The logits of one token through our block, with everything around it written out.
fn ours(vb: VarBuilder, gelu: Gelu) -> Tensor {
    let vb = vb.pp("model");
    let norm = |vb: VarBuilder| RmsNorm::new(vb.get(HIDDEN, "weight").unwrap(), EPS);
    let embeddings = vb.pp("embed_tokens").get((VOCAB, HIDDEN), "weight").unwrap();
    let layer = vb.pp("layers.0");
    let mlp = gemma_mlp(HIDDEN, INTERMEDIATE, gelu, layer.pp("mlp")).unwrap();
    let x = (embeddings.narrow(0, TOKEN as usize, 1).unwrap() * (HIDDEN as f64).sqrt()).unwrap(); // [1, hidden]
    let inner = norm(layer.pp("pre_feedforward_layernorm")).forward(&x).unwrap();
    let inner = mlp.forward(&inner).unwrap();
    let x = (x + norm(layer.pp("post_feedforward_layernorm")).forward(&inner).unwrap()).unwrap();
    norm(vb.pp("norm")).forward(&x).unwrap().matmul(&embeddings.t().unwrap()).unwrap() // [1, vocab]
}

fn gemma2_logits(vb: VarBuilder, hidden_activation: Activation, ids: &Tensor) -> Tensor {
    let config = gemma2::Config {
        attention_bias: false,
        head_dim: 8,
        hidden_activation,
        hidden_size: HIDDEN,
        intermediate_size: INTERMEDIATE,
        num_attention_heads: 1,
        num_hidden_layers: 1,
        num_key_value_heads: 1,
        rms_norm_eps: EPS,
        rope_theta: 1e4,
        vocab_size: VOCAB,
        final_logit_softcapping: None,
        attn_logit_softcapping: None,
        query_pre_attn_scalar: 8,
        sliding_window: None,
        max_position_embeddings: 16,
    };
    gemma2::Model::new(false, &config, vb).unwrap().forward(ids, 0).unwrap()
}

fn gemma3_logits(vb: VarBuilder, hidden_activation: Activation, ids: &Tensor) -> Tensor {
    let config = gemma3::Config {
        attention_bias: false,
        head_dim: 8,
        hidden_activation,
        hidden_size: HIDDEN,
        intermediate_size: INTERMEDIATE,
        num_attention_heads: 1,
        num_hidden_layers: 1,
        num_key_value_heads: 1,
        rms_norm_eps: EPS,
        rope_theta: 1e6,
        rope_local_base_freq: 1e4,
        vocab_size: VOCAB,
        final_logit_softcapping: None,
        attn_logit_softcapping: None,
        query_pre_attn_scalar: 8,
        sliding_window: 8,
        sliding_window_pattern: 6,
        max_position_embeddings: 16,
    };
    gemma3::Model::new(false, &config, vb).unwrap().forward(ids, 0).unwrap()
}

#[test]
fn candle_transformers_gemma2_and_gemma3() {
    let vb = VarBuilder::from_tensors(weights(), DType::F32, &Device::Cpu);
    let ids = Tensor::new(&[[TOKEN]], &Device::Cpu).unwrap();
    for (name, logits) in [
        ("gemma2", gemma2_logits as fn(VarBuilder, Activation, &Tensor) -> Tensor),
        ("gemma3", gemma3_logits),
    ] {
        for (gelu, theirs) in
            [(Gelu::Exact, Activation::Gelu), (Gelu::Tanh, Activation::GeluPytorchTanh)]
        {
            let logits = logits(vb.clone(), theirs, &ids).flatten_to(1).unwrap(); // [1, vocab]
            let distance = rel_l2(&logits, &ours(vb.clone(), gelu));
            assert!(distance < 2e-6, "{name} {gelu}: {distance:e}");
            let other = if gelu == Gelu::Exact { Gelu::Tanh } else { Gelu::Exact };
            let distance = rel_l2(&logits, &ours(vb.clone(), other));
            assert!(distance > 1e-5, "{name}: the other mode is not told apart, {distance:e}");
        }
    }
}
