//! A family's small checkpoint with what transformers makes of it (`scripts/goldens_families.py`).

use super::{rel_l2, to_f64};
use candle_core::{DType, Device, Result, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use gemma_mlp::model::{Cache, Observer};
use gemma_mlp::{Checkpoint, Gemma};
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

/// A checkpoint, and tensors by their names.
pub struct Family {
    pub checkpoint: Checkpoint,
    pub golden: HashMap<String, Tensor>,
    dir: PathBuf,
}

/// What a pass leaves.
pub struct Run {
    pub streams: Vec<Tensor>,
    pub normed: Tensor,
    pub logits: Tensor,
}

#[derive(Default)]
struct Streams(Vec<Tensor>);

impl Observer for Streams {
    fn residual(&mut self, _: usize, stream: &Tensor) -> Result<()> {
        self.0.push(stream.clone());
        Ok(())
    }
}

impl Family {
    pub fn open(name: &str) -> Self {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let dir = dir.join("tests/goldens/families").join(name);
        let golden = dir.join("golden.safetensors");
        let golden = candle_core::safetensors::load(golden, &Device::Cpu).unwrap();
        Self { checkpoint: Checkpoint::open(&dir).unwrap(), golden, dir }
    }

    /// The same with the config in the Hub's spelling.
    pub fn in_the_hubs_spelling(&self) -> Checkpoint {
        let copy = tempfile::tempdir().unwrap();
        fs::copy(self.dir.join("config_hub.json"), copy.path().join("config.json")).unwrap();
        let weights = "model.safetensors";
        fs::copy(self.dir.join(weights), copy.path().join(weights)).unwrap();
        let checkpoint = Checkpoint::open(copy.path()).unwrap();
        match self.checkpoint.attention().unwrap().prefix {
            Some(prefix) => checkpoint.with_prefix(prefix).unwrap(),
            None => checkpoint,
        }
    }

    pub fn ids(&self) -> Tensor {
        self.golden["input_ids"].to_dtype(DType::U32).unwrap()
    }

    pub fn load(&self, dtype: DType) -> Gemma {
        Gemma::load(&self.checkpoint, &Device::Cpu, dtype).unwrap()
    }

    pub fn run(&self, gemma: &Gemma) -> Run {
        let mut streams = Streams::default();
        let normed = gemma.hidden(&self.ids(), &mut streams).unwrap();
        Run { streams: streams.0, logits: gemma.logits(&normed).unwrap(), normed }
    }

    /// f64 is within 1e-6 of transformers' f64, layer by layer; f32 no farther from it than twice transformers' f32;
    /// the exact GELU is transformers' too.
    pub fn agrees(&self) {
        let golden = &self.golden;
        let wide = self.load(DType::F64);
        let run = self.run(&wide);
        for (i, stream) in run.streams.iter().enumerate() {
            assert!(rel_l2(&golden[&format!("hidden.{i}")], stream) < 1e-6, "layer {i}");
        }
        assert!(rel_l2(&golden["last_hidden"], &run.normed) < 1e-6);
        assert!(rel_l2(&golden["logits"], &run.logits) < 1e-6);
        let exact = self.run(&wide.with_activation(gemma_mlp::Gelu::Exact)).logits;
        assert!(rel_l2(&golden["logits.exact"], &exact) < 1e-6);
        let theirs = rel_l2(&golden["logits"], &golden["logits.f32"]);
        let ours = rel_l2(&golden["logits"], &self.run(&self.load(DType::F32)).logits);
        assert!(ours < 2.0 * theirs, "{ours:e}, and transformers {theirs:e}");
        let theirs = rel_l2(&golden["logits"], &golden["logits.bf16"]);
        let ours = rel_l2(&golden["logits"], &self.run(&self.load(DType::BF16)).logits);
        assert!(ours < 2.0 * theirs, "{ours:e}, and transformers {theirs:e}");
        let respelled = self.in_the_hubs_spelling();
        let respelled = Gemma::load(&respelled, &Device::Cpu, DType::F64).unwrap();
        assert!(to_f64(&self.run(&respelled).logits) == to_f64(&run.logits));
    }

    /// A text has the same bits alone and in a batch, at once and in parts after a cache, in f32 and in bf16.
    pub fn keeps_bits(&self, parts: &[usize]) {
        let ids = self.ids();
        for dtype in [DType::F32, DType::BF16] {
            let gemma = self.load(dtype);
            let whole = self.run(&gemma).logits;
            for text in 0..ids.dims()[0] {
                let alone = gemma.forward(&ids.narrow(0, text, 1).unwrap()).unwrap();
                let in_batch = whole.narrow(0, text, 1).unwrap();
                assert!(to_f64(&alone) == to_f64(&in_batch), "{dtype:?}");
            }
            let (mut cache, mut at) = (Cache::default(), 0);
            for &len in parts {
                let part = ids.narrow(1, at, len).unwrap();
                at += len;
                let logits = gemma.forward_cached(&part, &mut cache).unwrap();
                let expected = whole.narrow(1, at - 1, 1).unwrap();
                assert!(to_f64(&logits) == to_f64(&expected), "{dtype:?} at {at}");
            }
            assert_eq!(at, ids.dims()[1]);
        }
    }

    /// The loss's gradients for all that the golden has one for, within 1e-6 of transformers' in f64. `backbone` is what
    /// stands before `layers.N` in the checkpoint.
    pub fn trains(&self, backbone: &str) {
        let vars = VarMap::new();
        let vb = VarBuilder::from_varmap(&vars, DType::F64, &Device::Cpu);
        let gemma = Gemma::new(self.checkpoint.config(), DType::F64, vb).unwrap();
        let weights = self.dir.join("model.safetensors");
        let weights = candle_core::safetensors::load(weights, &Device::Cpu).unwrap();
        let vars: HashMap<String, Var> = vars.data().lock().unwrap().clone();
        for (name, var) in &vars {
            let name = name.replacen("model.", backbone, 1);
            var.set(&weights[&name].to_dtype(DType::F64).unwrap()).unwrap();
        }
        let ids = self.ids();
        let (batch, seq) = ids.dims2().unwrap();
        let logits = gemma.forward(&ids).unwrap();
        let logits = logits.narrow(1, 0, seq - 1).unwrap().flatten(0, 1).unwrap();
        let labels = ids.narrow(1, 1, seq - 1).unwrap().flatten_all().unwrap();
        assert_eq!(labels.dims1().unwrap(), batch * (seq - 1));
        let loss = candle_nn::loss::cross_entropy(&logits, &labels).unwrap();
        let theirs = to_f64(&self.golden["loss"])[0];
        assert!((to_f64(&loss)[0] - theirs).abs() < 1e-7 * theirs);
        let gradients = loss.backward().unwrap();
        let mut count = 0;
        for (name, theirs) in &self.golden {
            let Some(name) = name.strip_prefix("grad.") else { continue };
            let bias = name.ends_with(".bias");
            let var = format!("model.{name}{}", if bias { "" } else { ".weight" });
            let ours = gradients.get(&vars[&var]).unwrap();
            let difference = rel_l2(theirs, ours);
            assert!(difference < 1e-6, "{name} {difference:e}");
            count += 1;
        }
        assert!(count > 8);
    }
}
