//! Whole models of today's families, trained: every gradient against transformers', in f64.

mod common;

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use common::rel_l2;
use gemma_mlp::{Checkpoint, Gemma};
use std::collections::HashMap;

/// How far a gradient may be: transformers' tables of RoPE are f32, which moves two of the models by more than 1e-6.
const MODELS: &[(&str, f64)] = &[
    ("gemma4-dense", 4e-6),
    ("gemma4-e4b", 1e-6),
    ("gemma4-e2b", 1e-6),
    ("gemma4-moe", 1e-6),
    ("gemma4-proportional", 1e-6),
    ("gemma4-all", 1e-6),
    ("gemma4-unified", 1e-6),
    ("gemma3n-a", 6e-6),
    ("gemma3n-b", 1e-6),
    ("gemma3n-c", 1e-6),
    ("embedding-gemma2", 1e-6),
];

/// A model out of a `VarBuilder` with a checkpoint's weights as variables, and the variables.
fn trainable(checkpoint: &Checkpoint, weights: &HashMap<String, Tensor>) -> (Gemma, VarMap) {
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::F64, &Device::Cpu);
    let gemma = Gemma::new(checkpoint.config(), DType::F64, vb).unwrap();
    for (name, var) in varmap.data().lock().unwrap().iter() {
        // The file may have the model inside another's names, or none around it.
        let short = name.trim_start_matches("model.");
        let long = format!("model.language_model.{short}");
        let stored = [name.as_str(), &long, short].into_iter().find_map(|name| weights.get(name));
        let stored = stored.unwrap_or_else(|| panic!("{name} is not stored"));
        var.set(&stored.to_dtype(DType::F64).unwrap()).unwrap();
    }
    (gemma, varmap)
}

/// The loss that was recorded: of the next tokens, or the cosine of the texts' embeddings.
fn loss(gemma: &Gemma, ids: &Tensor) -> candle_core::Result<Tensor> {
    let (seq, hidden) = (ids.dim(1)?, gemma.hidden(ids, &mut ())?);
    if gemma.head().is_none() {
        let embedding = Gemma::normalized(&gemma.pooled(&hidden, None)?)?;
        return (embedding.get(0)? * embedding.get(1)?)?.sum_all();
    }
    let logits = gemma.logits(&hidden)?.narrow(1, 0, seq - 1)?.flatten_to(1)?;
    candle_nn::loss::cross_entropy(&logits, &ids.narrow(1, 1, seq - 1)?.flatten_all()?)
}

#[test]
fn gradients_are_transformers() {
    for &(name, bound) in MODELS {
        let dir = format!("{}/tests/goldens/families/{name}", env!("CARGO_MANIFEST_DIR"));
        let load = |file| candle_core::safetensors::load(format!("{dir}/{file}"), &Device::Cpu);
        let (weights, goldens) =
            (load("model.safetensors").unwrap(), load("golden.safetensors").unwrap());
        let (gemma, varmap) = trainable(&Checkpoint::open(&dir).unwrap(), &weights);
        let ids = goldens["input_ids"].to_dtype(DType::U32).unwrap();
        let loss = loss(&gemma, &ids).unwrap();
        let far = rel_l2(&goldens["loss"], &loss.reshape(1).unwrap());
        assert!(far < 1e-6, "{name}: a loss {far:e} away");
        let (store, variables) = (loss.backward().unwrap(), varmap.data().lock().unwrap());
        let mut compared = 0;
        for (golden, expected) in &goldens {
            let Some(matrix) = golden.strip_prefix("grad.") else { continue };
            let matrix = format!("model.{matrix}");
            let variable = variables.get(&matrix).or(variables.get(&format!("{matrix}.weight")));
            let gradient = store.get(variable.unwrap().as_tensor()).unwrap();
            let far = rel_l2(expected, gradient);
            assert!(far < bound, "{name} {matrix}: {far:e}");
            compared += 1;
        }
        assert!(compared >= 3 * gemma.layers().len(), "{name}: {compared} gradients");
    }
}
