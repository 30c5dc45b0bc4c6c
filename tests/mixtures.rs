//! Weights that are quantised as they are read, against what llama.cpp's own quantize makes of them
//! (tests/goldens/mixtures.json, by scripts/goldens_mixtures.py).

use crate::common::to_f64;
use candle_core::{DType, Device, Tensor};
use gemma_mlp::checkpoint::{Mixture, Storage};
use gemma_mlp::{Checkpoint, Gemma};
use half::f16;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// By hidden and intermediate size, and number of layers.
const MODELS: [(&str, [usize; 3]); 3] =
    [("whole", [256, 256, 11]), ("small", [96, 256, 2]), ("odd", [40, 64, 1])];
const HEAD_DIM: usize = 32;
const VOCABULARY: usize = 64;

/// The golden's n-th matrix.
fn weights(n: usize, shape: [usize; 2]) -> Tensor {
    let weight = |i: usize| {
        let h = (2654435761 * i as u64 + 40503 * n as u64) & 0xffff_ffff;
        let h = ((h ^ h >> 15) * 2246822519) & 0xffff_ffff;
        ((h ^ h >> 13) >> 8) as f32 / 2f32.powi(27) - 1.0 / 16.0
    };
    let all = (0..shape[0] * shape[1]).map(weight).collect();
    Tensor::from_vec(all, &shape, &Device::Cpu).unwrap()
}

/// A model's matrices, and norms beside them.
fn checkpoint([hidden, intermediate, layers]: [usize; 3]) -> (TempDir, Checkpoint) {
    let heads = 2 * HEAD_DIM;
    let mut shapes = BTreeMap::from([("model.embed_tokens".to_string(), [VOCABULARY, hidden])]);
    let mut all = HashMap::new();
    let norm = |len: usize| Tensor::full(0.25f32, len, &Device::Cpu).unwrap();
    for i in 0..layers {
        for (name, shape) in [
            ("self_attn.q_proj", [heads, hidden]),
            ("self_attn.k_proj", [HEAD_DIM, hidden]),
            ("self_attn.v_proj", [HEAD_DIM, hidden]),
            ("self_attn.o_proj", [hidden, heads]),
            ("mlp.gate_proj", [intermediate, hidden]),
            ("mlp.up_proj", [intermediate, hidden]),
            ("mlp.down_proj", [hidden, intermediate]),
        ] {
            shapes.insert(format!("model.layers.{i}.{name}"), shape);
        }
        for (name, len) in [
            ("input", hidden),
            ("post_attention", hidden),
            ("pre_feedforward", hidden),
            ("post_feedforward", hidden),
        ] {
            all.insert(format!("model.layers.{i}.{name}_layernorm.weight"), norm(len));
        }
        for name in ["q", "k"] {
            all.insert(format!("model.layers.{i}.self_attn.{name}_norm.weight"), norm(HEAD_DIM));
        }
    }
    all.insert("model.norm.weight".into(), norm(hidden));
    for (n, (name, shape)) in shapes.into_iter().enumerate() {
        all.insert(format!("{name}.weight"), weights(n, shape));
    }
    save(&all, &config([hidden, intermediate, layers]))
}

fn config([hidden, intermediate, layers]: [usize; 3]) -> Value {
    json!({
        "model_type": "gemma3_text", "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": HEAD_DIM, "query_pre_attn_scalar": HEAD_DIM, "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-6, "sliding_window": 16, "max_position_embeddings": 64,
    })
}

/// A checkpoint of weights.
fn save(weights: &HashMap<String, Tensor>, config: &Value) -> (TempDir, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    candle_core::safetensors::save(weights, dir.path().join("model.safetensors")).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    (dir, checkpoint)
}

/// A tensor's bytes as it is stored, or turned into.
fn digest(checkpoint: &Checkpoint, name: &str, storage: Storage) -> String {
    let numbers = checkpoint.tensors().numbers(name).unwrap();
    let bytes = match storage {
        Storage::Blocks(_) => numbers.blocks(0..numbers.len()).unwrap(),
        _ => {
            let tensor = numbers.tensor(0..numbers.len(), &[numbers.len()]).unwrap();
            tensor.to_vec1::<f16>().unwrap().into_iter().flat_map(f16::to_le_bytes).collect()
        }
    };
    Sha256::digest(&bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn mixtures_are_those_of_llama_cpp() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/mixtures.json");
    let golden: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    for (name, sizes) in MODELS {
        let (_dir, checkpoint) = checkpoint(sizes);
        for mixture in Mixture::ALL {
            let quantised = checkpoint.quantised(mixture).unwrap();
            let golden = golden[name][mixture.name().to_lowercase()].as_object().unwrap();
            for (tensor, shape, storage) in quantised.tensors().entries() {
                match golden.get(tensor) {
                    None => assert!(shape.len() == 1 && !storage.is_quantised(), "{tensor}"),
                    Some(expected) => {
                        let what = format!("{name} {mixture}: {tensor}");
                        assert_eq!(storage.to_string(), expected[0].as_str().unwrap(), "{what}");
                        let digest = digest(&quantised, tensor, storage);
                        assert_eq!(digest, expected[1].as_str().unwrap(), "{what} in {storage}");
                    }
                }
            }
        }
    }
}

fn run(checkpoint: &Checkpoint, dtype: DType) -> Vec<f64> {
    let gemma = Gemma::load(checkpoint, &Device::Cpu, dtype).unwrap();
    let ids: Vec<u32> = (0..40).map(|i| i * 7 % VOCABULARY as u32).collect();
    let ids = Tensor::from_vec(ids, (2, 20), &Device::Cpu).unwrap();
    to_f64(&gemma.logits(&gemma.hidden(&ids, &mut ()).unwrap()).unwrap())
}

/// A model whose weights stay in blocks is one that has their numbers in f32, up to the order of sums; in memory and in its
/// file it has the same bits.
#[test]
fn quantised_models_are_those_of_the_dequantised_weights() {
    for (name, sizes) in MODELS {
        let (_dir, checkpoint) = checkpoint(sizes);
        for mixture in [Mixture::Q4KM, Mixture::Q8_0, Mixture::Q5KM] {
            let quantised = checkpoint.quantised(mixture).unwrap();
            let load = |(name, shape, _): (&str, &[usize], _)| {
                let tensor = quantised.tensors().load(name, shape, DType::F32, &Device::Cpu);
                (name.to_string(), tensor.unwrap())
            };
            let weights: HashMap<_, _> = quantised.tensors().entries().map(load).collect();
            let (_dir, dequantised) = save(&weights, &config(sizes));
            let expected = run(&dequantised, DType::F32);
            assert_ne!(expected, run(&checkpoint, DType::F32), "{name} {mixture}");
            // Both are as far from f64, in which weights are unpacked.
            let f32 = run(&quantised, DType::F32);
            let exact = run(&dequantised, DType::F64);
            let error = |logits: &[f64]| {
                let squares = logits.iter().zip(&exact).map(|(a, b)| (a - b) * (a - b));
                (squares.sum::<f64>() / exact.len() as f64).sqrt()
            };
            assert!(error(&f32) < 1.5 * error(&expected), "{name} {mixture}");
            assert_eq!(run(&quantised, DType::F64), exact);
            let bf16 = run(&quantised, DType::BF16);
            let quantised = quantised.streamed();
            assert_eq!(run(&quantised, DType::F32), f32, "{name} {mixture} streamed");
            assert_eq!(run(&quantised, DType::BF16), bf16, "{name} {mixture} streamed");
        }
    }
}

#[test]
fn what_is_not_quantised() {
    let (_dir, checkpoint) = checkpoint(MODELS[1].1);
    let quantised = checkpoint.quantised(Mixture::Q4_0).unwrap();
    let twice = quantised.quantised(Mixture::Q4_0).err().unwrap().to_string();
    assert!(twice.contains("Q8_0 already"), "{twice}");
    let mut weights: HashMap<_, _> = checkpoint
        .tensors()
        .entries()
        .map(|(name, shape, _)| {
            let tensor = checkpoint.tensors().load(name, shape, DType::F32, &Device::Cpu);
            (name.to_string(), tensor.unwrap())
        })
        .collect();
    let down = "model.layers.1.mlp.down_proj.weight";
    let infinite = (weights[down].clone() / 0.0).unwrap();
    weights.insert(down.into(), infinite);
    let (_dir, infinite) = save(&weights, &config(MODELS[1].1));
    let quantised = infinite.quantised(Mixture::Q4_0).unwrap();
    let refused = Gemma::load(&quantised, &Device::Cpu, DType::F32).err().unwrap();
    assert!(refused.to_string().contains(down), "{refused}");
    assert!(refused.is_input(), "{refused}");
}
