//! Finding a port's mistakes one after the other: candle-transformers' Gemma 4, which shows nothing but logits.
//!
//! Small checkpoints switch its parts on one by one. Whatever `compare` names is put into ours, and the next part is
//! switched on, until all of it is on and its output is met. docs/finding-mistakes.md tells it; `-- --nocapture` prints
//! what stands there.

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::gemma4::config::Gemma4TextConfig;
use candle_transformers::models::gemma4::text::TextModel;
use gemma_mlp::Checkpoint;
use gemma_mlp_drift::compare::{
    CompareOptions, Comparison, Dump, DumpText, Plane, Point, Sight, compare,
};
use gemma_mlp_drift::drift::{DIFFERENCES, Difference};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::ops::ControlFlow;

/// What of a model is switched on.
#[derive(Debug, Clone, Copy, Default)]
struct Parts {
    attention: bool,
    mlp: bool,
    /// Factors on the residual stream that are not 1.
    scalars: bool,
    per_layer: bool,
    /// The last layers without keys of their own.
    shared: bool,
    /// Tokens of the text; the window has 8.
    tokens: usize,
}

const HIDDEN: usize = 48;
const INNER: usize = 64;
const VOCAB: usize = 96;
const LAYERS: usize = 4;
const PER_LAYER: usize = 6;
const HEADS: [usize; 2] = [4, 2];
/// Of sliding and of full layers.
const HEAD_DIM: [usize; 2] = [16, 32];

fn config(parts: Parts) -> Value {
    json!({
        "model_type": "gemma4_text", "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS[0], "num_key_value_heads": HEADS[1],
        "head_dim": HEAD_DIM[0], "global_head_dim": HEAD_DIM[1], "hidden_activation": "gelu_pytorch_tanh",
        "layer_types": layer_types(), "sliding_window": 8, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
        "final_logit_softcapping": 30.0, "tie_word_embeddings": true, "attention_k_eq_v": false,
        "hidden_size_per_layer_input": if parts.per_layer { PER_LAYER } else { 0 },
        "vocab_size_per_layer_input": VOCAB,
        "num_kv_shared_layers": if parts.shared { 2 } else { 0 },
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
        },
    })
}

fn layer_types() -> [&'static str; LAYERS] {
    ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
}

/// Random weights, of which the parts that are off are 0.
fn weights(parts: Parts) -> Result<HashMap<String, Tensor>> {
    let mut rng = StdRng::seed_from_u64(7);
    let mut all = HashMap::new();
    // Of every tensor the same numbers, whatever is on.
    let mut add = |name: String, shape: &[usize], range: std::ops::Range<f32>, on: bool| {
        let count = shape.iter().product();
        let numbers: Vec<f32> = (0..count).map(|_| rng.random_range(range.clone())).collect();
        let tensor = Tensor::from_vec(numbers, shape, &Device::Cpu)?;
        all.insert(name, if on { tensor } else { tensor.zeros_like()? });
        Ok::<_, candle_core::Error>(())
    };
    let matrix = |columns: usize| {
        let most = (3.0 / columns as f32).sqrt();
        -most..most
    };
    let norm = 0.4..1.2;
    add("model.embed_tokens.weight".into(), &[VOCAB, HIDDEN], matrix(HIDDEN), true)?;
    add("model.norm.weight".into(), &[HIDDEN], norm.clone(), true)?;
    if parts.per_layer {
        let width = LAYERS * PER_LAYER;
        let table = "model.embed_tokens_per_layer.weight";
        add(table.into(), &[VOCAB, width], -1.0..1.0, true)?;
        let projection = "model.per_layer_model_projection.weight";
        add(projection.into(), &[width, HIDDEN], matrix(HIDDEN), true)?;
        add("model.per_layer_projection_norm.weight".into(), &[PER_LAYER], norm.clone(), true)?;
    }
    let mut scalars = vec![];
    for (layer, layer_type) in layer_types().into_iter().enumerate() {
        let head_dim = HEAD_DIM[usize::from(layer_type == "full_attention")];
        let mut add = |name: &str, shape: &[usize], range, on| {
            add(format!("model.layers.{layer}.{name}"), shape, range, on)
        };
        for name in ["input", "post_attention", "pre_feedforward", "post_feedforward"] {
            add(&format!("{name}_layernorm.weight"), &[HIDDEN], norm.clone(), true)?;
        }
        let [queries, keys] = HEADS.map(|heads| heads * head_dim);
        for (name, rows) in [("q", queries), ("k", keys), ("v", keys)] {
            let name = format!("self_attn.{name}_proj.weight");
            add(&name, &[rows, HIDDEN], matrix(HIDDEN), true)?;
        }
        add("self_attn.o_proj.weight", &[HIDDEN, queries], matrix(queries), parts.attention)?;
        for name in ["q", "k"] {
            add(&format!("self_attn.{name}_norm.weight"), &[head_dim], norm.clone(), true)?;
        }
        for name in ["gate", "up"] {
            add(&format!("mlp.{name}_proj.weight"), &[INNER, HIDDEN], matrix(HIDDEN / 4), true)?;
        }
        add("mlp.down_proj.weight", &[HIDDEN, INNER], matrix(INNER), parts.mlp)?;
        let scalar: f32 = if parts.scalars { [0.3, 0.8, 0.5, 0.7][layer] } else { 1.0 };
        scalars.push((format!("model.layers.{layer}.layer_scalar"), scalar));
        if parts.per_layer {
            let gate = "per_layer_input_gate.weight";
            add(gate, &[PER_LAYER, HIDDEN], matrix(HIDDEN), true)?;
            let projection = "per_layer_projection.weight";
            add(projection, &[HIDDEN, PER_LAYER], matrix(PER_LAYER), true)?;
            add("post_per_layer_input_norm.weight", &[HIDDEN], norm.clone(), true)?;
        }
    }
    for (name, scalar) in scalars {
        all.insert(name, Tensor::new(&[scalar], &Device::Cpu)?);
    }
    Ok(all)
}

/// The logits that candle-transformers computes of every position, each by a pass over the tokens up to it: the model
/// returns the last one's alone.
fn candles(config: &Value, weights: &HashMap<String, Tensor>, ids: &[u32]) -> Result<Tensor> {
    let config: Gemma4TextConfig = serde_json::from_value(config.clone()).unwrap();
    let vb = VarBuilder::from_tensors(weights.clone(), DType::F32, &Device::Cpu);
    let mut model = TextModel::new(&config, vb)?;
    let mut rows = vec![];
    for end in 1..=ids.len() {
        model.clear_kv_cache();
        let prefix = Tensor::new(&ids[..end], &Device::Cpu)?.unsqueeze(0)?;
        rows.push(model.forward(&prefix, 0)?.squeeze(0)?); // [1, vocab]
    }
    Tensor::cat(&rows, 0)
}

/// What `compare` says of candle's model with these parts, with mistakes put into ours.
fn compared(parts: Parts, with: &[&'static Difference]) -> Comparison {
    let (config, weights) = (config(parts), weights(parts).unwrap());
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    candle_core::safetensors::save(&weights, dir.path().join("model.safetensors")).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let ids: Vec<u32> = (0..parts.tokens as u32).map(|i| 2 + (i * i * 7 + i * 3) % 91).collect();
    let logits = candles(&config, &weights, &ids).unwrap();
    let planes = [(Point::Logits, Plane::new(logits))].into();
    let metadata = [("dtype", "f32"), ("framework", "candle")];
    let dump = Dump {
        source: "candle-transformers 0.11.1".into(),
        metadata: metadata.map(|(k, v)| (k.to_string(), v.to_string())).into(),
        texts: vec![DumpText { tokens: Some(ids), planes, ..DumpText::default() }],
        ..Dump::default()
    };
    let options = CompareOptions { with: with.to_vec(), ..CompareOptions::default() };
    compare(&dump, &checkpoint, &options, &Device::Cpu, |_| ControlFlow::Continue(())).unwrap()
}

/// What each part shows, by the mistake's name; nothing where that part is right.
#[test]
fn candles_mistakes_are_found_one_after_the_other() {
    let nothing = Parts { tokens: 8, ..Parts::default() };
    let attention = Parts { attention: true, ..nothing };
    let longer = Parts { tokens: 32, ..attention };
    let mlp = Parts { mlp: true, ..longer };
    let scalars = Parts { scalars: true, ..mlp };
    let per_layer = Parts { per_layer: true, ..scalars };
    let shared = Parts { shared: true, ..per_layer };
    let mut found: Vec<&'static Difference> = vec![];
    for (parts, mistake) in [
        (nothing, Some("norm: 1+w in place of w")),
        (attention, Some("attention scaled by head_dim")),
        (longer, Some("sliding window one longer")),
        (mlp, None),
        (scalars, Some("layer_scalar left out")),
        (per_layer, Some("per-layer inputs left out")),
        (shared, Some("k/v sharing ignored")),
    ] {
        let comparison = compared(parts, &found);
        println!("{parts:?}\n    {}", comparison.verdict);
        let names: Vec<_> = comparison.causes.iter().map(|cause| cause.name.as_str()).collect();
        assert_eq!(names, mistake.into_iter().collect::<Vec<_>>(), "{}", comparison.verdict);
        assert_eq!(comparison.agrees, mistake.is_none());
        assert!(
            comparison
                .causes
                .iter()
                .all(|cause| cause.cosine > 0.999 && cause.runner_up < Some(0.8))
        );
        found.extend(mistake.and_then(|name| DIFFERENCES.iter().find(|known| known.name == name)));
        let then = compared(parts, &found);
        assert!(
            then.agrees && then.below_floor.iter().all(|below| below.sight != Sight::Suspected)
        );
        println!("    then: {}", then.verdict);
    }
}

/// Values that are the keys' projection it does not load at all.
#[test]
fn candle_wants_a_projection_of_values_in_every_layer() {
    let parts = Parts { tokens: 8, ..Parts::default() };
    let mut weights = weights(parts).unwrap();
    weights.remove("model.layers.1.self_attn.v_proj.weight").unwrap();
    let error = candles(&config(parts), &weights, &[2]).unwrap_err().to_string();
    assert!(error.contains("v_proj"), "{error}");
}
