//! Against candle-transformers, in process and in f32: whole models of Gemma 1, 2 and 3 with random
//! weights, in either activation. (In bf16 its Gemma 3 collapses positions above 256:
//! docs/drift.md.)

use crate::common::rel_l2;
use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use candle_transformers::models::{gemma, gemma2, gemma3};
use gemma_mlp::checkpoint::Config;
use gemma_mlp::{Activation, Gelu, Gemma};
use serde_json::{Value, json};
use std::path::Path;

const VOCAB: usize = 40;

/// A config that both sides read. candle-transformers scales attention by the head's width and
/// reads no `query_pre_attn_scalar`, so that this must be the same. The window is longer than the
/// prompt: candle-transformers' masks let a query see one key more than it, in Gemma 2 in every
/// layer.
fn config(model_type: &str, gelu: Gelu) -> Value {
    let name = match gelu {
        Gelu::Exact => "gelu",
        Gelu::Tanh => "gelu_pytorch_tanh",
    };
    let mut config = json!({
        "model_type": model_type, "attention_bias": false, "head_dim": 8, "hidden_size": 32,
        "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 4,
        "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1e4, "vocab_size": VOCAB,
        "max_position_embeddings": 64, "query_pre_attn_scalar": 8, "hidden_activation": name,
        "final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0, "sliding_window": 32,
    });
    if model_type == "gemma3_text" {
        config["rope_theta"] = json!(1e6);
        config["rope_local_base_freq"] = json!(1e4);
        // With more key heads its rotating cache refuses a prompt.
        config["num_key_value_heads"] = json!(1);
        config["sliding_window_pattern"] = json!(2);
        config["attn_logit_softcapping"] = Value::Null;
    }
    config
}

/// Our model under an activation, and the weights that it was made of.
fn ours(config: &Value, gelu: Gelu) -> (Gemma, VarBuilder<'static>) {
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
    let parsed = Config::parse(&config.to_string(), Path::new("config.json")).unwrap();
    let gemma = Gemma::new(&parsed, DType::F32, vb).unwrap().with_activation(gelu);
    let mut weights = std::collections::HashMap::new();
    for (name, var) in varmap.data().lock().unwrap().iter() {
        var.set(&Tensor::randn(0f32, 0.3, var.shape(), &Device::Cpu).unwrap()).unwrap();
        weights.insert(name.clone(), var.as_detached_tensor());
    }
    (gemma, VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu))
}

/// candle-transformers' logits of the last position.
fn theirs(config: &Value, vb: VarBuilder, ids: &Tensor) -> Tensor {
    let json = config.clone();
    let logits = match config["model_type"].as_str().unwrap() {
        "gemma" => {
            let config: gemma::Config = serde_json::from_value(json).unwrap();
            gemma::Model::new(false, &config, vb).unwrap().forward(ids, 0)
        }
        "gemma2" => {
            let config: gemma2::Config = serde_json::from_value(json).unwrap();
            gemma2::Model::new(false, &config, vb).unwrap().forward(ids, 0)
        }
        _ => {
            let config: gemma3::Config = serde_json::from_value(json).unwrap();
            gemma3::Model::new(false, &config, vb).unwrap().forward(ids, 0)
        }
    };
    logits.unwrap().flatten_to(1).unwrap() // [1, vocab]
}

#[test]
fn whole_models_of_candle_transformers() {
    let ids: Vec<u32> = (0..12).map(|i| 2 + i * 7 % 38).collect();
    for model_type in ["gemma", "gemma2", "gemma3_text"] {
        for &gelu in Gelu::ALL {
            let config = config(model_type, gelu);
            let (gemma, vb) = ours(&config, gelu);
            for length in [1, 4, 12] {
                let ids = Tensor::new(&ids[..length], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
                let theirs = theirs(&config, vb.clone(), &ids);
                let last = |gemma: &Gemma| {
                    gemma.forward(&ids).unwrap().narrow(1, length - 1, 1).unwrap().flatten_to(1)
                };
                let distance = rel_l2(&theirs, &last(&gemma).unwrap());
                assert!(distance < 5e-6, "{model_type} {gelu} {length}: {distance:e}");
                let other = if gelu == Gelu::Exact { Gelu::Tanh } else { Gelu::Exact };
                let other = gemma.with_activation(Activation::Gelu(other));
                let distance = rel_l2(&theirs, &last(&other).unwrap());
                assert!(
                    distance > 1e-5,
                    "{model_type}: the modes are not told apart, {distance:e}"
                );
            }
        }
    }
}
