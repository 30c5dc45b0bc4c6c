//! Whole models of today's families, against transformers.

mod common;

use candle_core::{DType, Device, Tensor};
use common::{rel_l2, to_f64};
use gemma_mlp::model::{Block, Cache, Observer};
use gemma_mlp::{Checkpoint, Gelu, Gemma};
use std::collections::HashMap;

type Goldens = HashMap<String, Tensor>;

/// The causal ones, and how far f64 may be from transformers' f64.
const MODELS: &[(&str, f64)] = &[
    ("gemma4-dense", 1e-6),
    ("gemma4-e4b", 1e-5),
    ("gemma4-e2b", 1e-5),
    ("gemma4-moe", 1e-6),
    ("gemma4-proportional", 1e-6),
    ("gemma4-all", 1e-6),
    ("gemma4-unified", 1e-6),
    ("gemma3n-a", 1e-5),
    ("gemma3n-b", 1e-5),
    ("gemma3n-c", 1e-5),
    ("embedding-gemma2", 1e-6),
];

fn open(name: &str) -> (Checkpoint, Goldens) {
    let dir = format!("{}/tests/goldens/families/{name}", env!("CARGO_MANIFEST_DIR"));
    let goldens = candle_core::safetensors::load(format!("{dir}/golden.safetensors"), &Device::Cpu);
    (Checkpoint::open(dir).unwrap(), goldens.unwrap())
}

fn ids(goldens: &Goldens) -> Tensor {
    goldens["input_ids"].to_dtype(DType::U32).unwrap()
}

#[derive(Default)]
struct Watch(Vec<Tensor>);

impl Observer for Watch {
    fn block(&mut self, _: Block) -> candle_core::Result<()> {
        Ok(())
    }

    fn residual(&mut self, _: usize, stream: &Tensor) -> candle_core::Result<()> {
        self.0.push(stream.clone());
        Ok(())
    }
}

#[test]
fn f64_is_transformers_f64() {
    let mut failed = vec![];
    for &(name, bound) in MODELS {
        let one = || -> Result<(), String> {
            let (checkpoint, goldens) = open(name);
            for dtype in [DType::F64, DType::F32] {
                let gemma =
                    Gemma::load(&checkpoint, &Device::Cpu, dtype).map_err(|e| e.to_string())?;
                let mut watch = Watch::default();
                let hidden = gemma.hidden(&ids(&goldens), &mut watch).map_err(|e| e.to_string())?;
                for (i, stream) in watch.0.iter().enumerate() {
                    let d = rel_l2(&goldens[&format!("hidden.{i}")], stream);
                    println!("{name} {dtype:?} hidden.{i} {d:e}");
                }
                if let Some(logits) = goldens.get("logits") {
                    let d = rel_l2(logits, &gemma.logits(&hidden).map_err(|e| e.to_string())?);
                    println!("{name} {dtype:?} logits {d:e}");
                    if dtype == DType::F64 && d > bound {
                        return Err(format!("{d:e}"));
                    }
                }
            }
            Ok(())
        };
        if let Err(e) = one() {
            failed.push((name, e));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// The texts' embeddings, of EmbeddingGemma 2 by either names; padding changes nothing.
#[test]
fn embeddings_are_transformers() {
    let (checkpoint, goldens) = open("embedding-gemma2");
    let ids = ids(&goldens);
    for (dtype, bound) in [(DType::F64, 1e-6), (DType::F32, 2e-6)] {
        let gemma = Gemma::load(&checkpoint, &Device::Cpu, dtype).unwrap();
        let hidden = gemma.hidden(&ids, &mut ()).unwrap();
        let pooled = gemma.pooled(&hidden, None).unwrap();
        for (name, ours) in [
            ("output", gemma.embedding_states(&hidden).unwrap()),
            ("pooled", pooled.clone()),
            ("embedding", Gemma::normalized(&pooled).unwrap()),
        ] {
            let far = rel_l2(&goldens[name], &ours);
            assert!(far < bound, "{name} {dtype:?}: {far:e}");
        }
        // Hidden states behind the text's own are left out by a mask.
        let (batch, seq, width) = hidden.dims3().unwrap();
        let padding = Tensor::ones((batch, 3, width), dtype, &Device::Cpu).unwrap();
        let padded = Tensor::cat(&[&hidden, &padding], 1).unwrap();
        let mask: Vec<u32> = (0..seq + 3).map(|at| u32::from(at < seq)).collect();
        let mask = Tensor::new(vec![mask; batch], &Device::Cpu).unwrap();
        let far = rel_l2(&pooled, &gemma.pooled(&padded, Some(&mask)).unwrap());
        assert!(far < 1e-6, "{far:e}");
    }
}
