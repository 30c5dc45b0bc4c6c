//! Whole models of today's families, trained: every gradient against transformers', in f64.

use crate::common::rel_l2;
use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use gemma_mlp::model::{RopeRounding, Variation};
use gemma_mlp::{Checkpoint, Gemma};
use std::collections::HashMap;

const MODELS: &[&str] = &[
    "gemma4-dense",
    "gemma4-e4b",
    "gemma4-e2b",
    "gemma4-moe",
    "gemma4-proportional",
    "gemma4-all",
    "gemma4-unified",
    "gemma3n-a",
    "gemma3n-b",
    "gemma3n-c",
    "embedding-gemma2",
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

/// Every gradient is within 1e-6, or within a few times what the last bit of RoPE's angles does to it: transformers has
/// angles in f32, as ours does, but out of other functions. Two of the models amplify that.
#[test]
fn gradients_are_transformers() {
    for &name in MODELS {
        let dir = format!("{}/tests/goldens/families/{name}", env!("CARGO_MANIFEST_DIR"));
        let load = |file| candle_core::safetensors::load(format!("{dir}/{file}"), &Device::Cpu);
        let (weights, goldens) =
            (load("model.safetensors").unwrap(), load("golden.safetensors").unwrap());
        let (gemma, varmap) = trainable(&Checkpoint::open(&dir).unwrap(), &weights);
        let ids = goldens["input_ids"].to_dtype(DType::U32).unwrap();
        let wide_angles = Variation::RopeRounding(RopeRounding::Wide);
        let turned_otherwise = gemma.varied(wide_angles).unwrap().unwrap();
        let turned_otherwise = loss(&turned_otherwise, &ids).unwrap().backward().unwrap();
        let loss = loss(&gemma, &ids).unwrap();
        let far = rel_l2(&goldens["loss"], &loss.reshape(1).unwrap());
        assert!(far < 1e-6, "{name}: a loss {far:e} away");
        let (store, variables) = (loss.backward().unwrap(), varmap.data().lock().unwrap());
        let mut compared = 0;
        for (golden, expected) in &goldens {
            let Some(matrix) = golden.strip_prefix("grad.") else { continue };
            let matrix = format!("model.{matrix}");
            let variable = variables.get(&matrix).or(variables.get(&format!("{matrix}.weight")));
            let variable = variable.unwrap().as_tensor();
            let gradient = store.get(variable).unwrap();
            let of_angles = rel_l2(gradient, turned_otherwise.get(variable).unwrap());
            let far = rel_l2(expected, gradient);
            assert!(far < f64::max(1e-6, 3.0 * of_angles), "{name} {matrix}: {far:e}");
            compared += 1;
        }
        assert!(compared >= 3 * gemma.layers().len(), "{name}: {compared} gradients");
    }
}
