//! The recorded values, and what is made of them.

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use gemma_mlp::{Checkpoint, Gelu, Gemma};
use std::collections::HashMap;

pub type Goldens = HashMap<String, Tensor>;

pub fn path(file: &str) -> String {
    format!("{}/tests/goldens/{file}.safetensors", env!("CARGO_MANIFEST_DIR"))
}

pub fn goldens(file: &str) -> Goldens {
    candle_core::safetensors::load(path(file), &Device::Cpu).unwrap()
}

/// A family's small model, in one of its config's spellings.
pub fn checkpoint(goldens: &HashMap<String, Tensor>, family: &str, spelling: &str) -> Checkpoint {
    let bytes = std::fs::read(path("model")).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let config = header.metadata().clone().unwrap()[&format!("{family}.{spelling}")].clone();
    let own = format!("{family}.");
    let weights: HashMap<_, _> = goldens
        .iter()
        .filter_map(|(name, t)| Some((name.strip_prefix(&own)?.to_string(), t.clone())))
        .filter(|(name, _)| name.starts_with("model.") || name.starts_with("lm_head."))
        .collect();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    candle_core::safetensors::save(&weights, dir.path().join("model.safetensors")).unwrap();
    Checkpoint::open(dir.path()).unwrap()
}

pub fn ids(goldens: &HashMap<String, Tensor>) -> Tensor {
    goldens["input_ids"].to_dtype(DType::U32).unwrap()
}

/// The gradient of the mean loss of a batch, through candle's backward pass over variables: a model
/// that can be trained.
pub fn gradients(
    checkpoint: &Checkpoint,
    weights: &Goldens,
    ids: &Tensor,
    gelu: Gelu,
) -> (f64, Goldens) {
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
    let gemma = Gemma::new(checkpoint.config(), DType::F32, vb).unwrap().with_activation(gelu);
    for (name, var) in varmap.data().lock().unwrap().iter() {
        var.set(&weights[name]).unwrap();
    }
    let (batch, seq) = ids.dims2().unwrap();
    let logits = gemma.forward(ids).unwrap().narrow(1, 0, seq - 1).unwrap();
    let logits = logits.flatten_to(1).unwrap().to_dtype(DType::F64).unwrap(); // [batch * (seq - 1), vocab]
    let next = ids.narrow(1, 1, seq - 1).unwrap().flatten_all().unwrap();
    assert_eq!(logits.dim(0).unwrap(), batch * (seq - 1));
    let loss = candle_nn::loss::cross_entropy(&logits, &next).unwrap();
    let store = loss.backward().unwrap();
    let data = varmap.data().lock().unwrap();
    let gradients =
        data.iter().filter_map(|(name, var)| Some((name.clone(), store.get(var)?.clone())));
    (loss.to_scalar().unwrap(), gradients.collect())
}

pub fn weights_of(goldens: &Goldens, family: &str) -> Goldens {
    let own = format!("{family}.");
    goldens
        .iter()
        .filter_map(|(n, t)| Some((n.strip_prefix(&own)?.to_string(), t.clone())))
        .collect()
}
