//! Whole models of the later families, against transformers.

use crate::common::{rel_l2, to_f64};
use candle_core::{DType, Device, Tensor};
use gemma_mlp::model::{Block, Observer};
use gemma_mlp::{Checkpoint, Gemma};
use safetensors::SafeTensors;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

type Goldens = HashMap<String, Tensor>;

/// The causal ones, and how far f64 may be from transformers' f64: its rotary frequencies are powers in f32, and what
/// small numbers are divided by makes more of that in some.
const MODELS: &[(&str, f64)] = &[
    ("gemma4-dense", 1e-6),
    ("gemma4-e4b", 1e-5),
    ("gemma4-e2b", 1e-6),
    ("gemma4-moe", 1e-6),
    ("gemma4-proportional", 1e-6),
    ("gemma4-all", 1e-6),
    ("gemma4-unified", 1e-6),
    ("gemma3n-a", 1e-5),
    ("gemma3n-b", 1e-5),
    ("gemma3n-c", 1e-5),
    ("embedding-gemma2", 1e-6),
    ("diffusion-encoder", 1e-6),
];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families").join(name)
}

fn open(name: &str) -> (Checkpoint, Goldens) {
    let goldens =
        candle_core::safetensors::load(path(name).join("golden.safetensors"), &Device::Cpu);
    (Checkpoint::open(path(name)).unwrap(), goldens.unwrap())
}

/// The checkpoint of a golden with its config or its tensors changed: each tensor's name is given, and what it is then
/// called, if it is left in.
fn changed(name: &str, config: &str, rename: impl Fn(&str) -> Option<String>) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(path(name).join(config), dir.path().join("config.json")).unwrap();
    let bytes = fs::read(path(name).join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = tensors.iter().filter_map(|(name, view)| Some((rename(name)?, view)));
    let tensors: Vec<_> = tensors.collect();
    safetensors::serialize_to_file(tensors, None, &dir.path().join("model.safetensors")).unwrap();
    dir
}

fn names(name: &str) -> Vec<String> {
    let bytes = fs::read(path(name).join("model.safetensors")).unwrap();
    SafeTensors::deserialize(&bytes).unwrap().names().into_iter().map(String::from).collect()
}

fn ids(goldens: &Goldens) -> Tensor {
    goldens["input_ids"].to_dtype(DType::U32).unwrap()
}

/// What is made of the last hidden states, and its name in the goldens: logits, or what embeddings are made of.
fn output(gemma: &Gemma, hidden: &Tensor) -> (&'static str, Tensor) {
    match gemma.head() {
        Some(_) => ("logits", gemma.logits(hidden).unwrap()),
        None => ("output", gemma.embedding_states(hidden).unwrap()),
    }
}

fn run(checkpoint: &Checkpoint, ids: &Tensor) -> Vec<f64> {
    let gemma = Gemma::load(checkpoint, &Device::Cpu, DType::F32).unwrap();
    let hidden = gemma.hidden(ids, &mut ()).unwrap();
    to_f64(&output(&gemma, &hidden).1)
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

/// Behind every layer, and at the end.
#[test]
fn f64_is_transformers_f64() {
    for &(name, bound) in MODELS {
        let (checkpoint, goldens) = open(name);
        let gemma = Gemma::load(&checkpoint, &Device::Cpu, DType::F64).unwrap();
        let mut watch = Watch::default();
        let hidden = gemma.hidden(&ids(&goldens), &mut watch).unwrap();
        let near = |what: &str, ours: &Tensor| {
            let distance = rel_l2(&goldens[what], ours);
            assert!(distance < bound, "{name} {what}: {distance:e}");
        };
        for (i, stream) in watch.0.iter().enumerate() {
            near(&format!("hidden.{i}"), stream);
        }
        near("last_hidden", &hidden);
        let (what, output) = output(&gemma, &hidden);
        near(what, &output);
    }
}

#[test]
fn f32_is_as_near_as_transformers_f32() {
    for &(name, _) in MODELS {
        let (checkpoint, goldens) = open(name);
        let gemma = Gemma::load(&checkpoint, &Device::Cpu, DType::F32).unwrap();
        let hidden = gemma.hidden(&ids(&goldens), &mut ()).unwrap();
        let (what, output) = output(&gemma, &hidden);
        let theirs = rel_l2(&goldens[what], &goldens[&format!("{what}.f32")]);
        let ours = rel_l2(&goldens[what], &output);
        assert!(ours <= 2.0 * theirs, "{name}: {ours:e}, transformers {theirs:e}");
    }
}

#[test]
fn both_spellings_of_a_config_are_one_model() {
    let mut spelled = 0;
    for &(name, _) in MODELS.iter().filter(|(name, _)| path(name).join("config_hub.json").exists())
    {
        let (checkpoint, goldens) = open(name);
        let hub = changed(name, "config_hub.json", |name| Some(name.into()));
        let hub = Checkpoint::open(hub.path()).unwrap();
        assert_eq!(checkpoint.remarks(), hub.remarks(), "{name}");
        let ids = ids(&goldens);
        assert_eq!(run(&checkpoint, &ids), run(&hub, &ids), "{name}");
        spelled += 1;
    }
    assert!(spelled > 8);
}

/// As transformers 5 writes a multimodal model, as transformers 4 did, as EmbeddingGemma 2 is stored, and a bare backbone.
#[test]
fn names_may_have_other_prefixes() {
    for name in ["gemma4-e2b", "gemma3n-b", "embedding-gemma2"] {
        let (checkpoint, goldens) = open(name);
        let (own, ids) = (&checkpoint.blocks()[0].layer, ids(&goldens));
        let own = own.strip_suffix("layers.0").unwrap();
        let expected = run(&checkpoint, &ids);
        for prefix in
            ["model.language_model.", "language_model.model.", "language_model.", "model.", ""]
        {
            let dir = changed(name, "config.json", |name| {
                Some(format!("{prefix}{}", name.strip_prefix(own).unwrap()))
            });
            let other = Checkpoint::open(dir.path()).unwrap();
            assert_eq!(other.remarks(), checkpoint.remarks(), "{name} {prefix}");
            assert_eq!(run(&other, &ids), expected, "{name} {prefix}");
        }
    }
    let (text, goldens) = open("embedding-gemma2");
    let full = Checkpoint::open(path("embedding-gemma2-full")).unwrap();
    assert_eq!(run(&full, &ids(&goldens)), run(&text, &ids(&goldens)));
}

/// Each tensor of a file is needed, and missed by its name before anything is loaded; or a remark says that it is not used.
#[test]
fn every_tensor_is_needed_or_told() {
    for &(name, _) in MODELS {
        let whole = Checkpoint::open(path(name)).unwrap();
        whole.check_whole_model().unwrap();
        let mut spare = 0;
        for left_out in names(name) {
            let dir = changed(name, "config.json", |name| (name != left_out).then(|| name.into()));
            let checked = Checkpoint::open(dir.path()).and_then(|less| {
                less.check_whole_model()?;
                Ok(less)
            });
            match checked {
                // It is one of those that a remark counts.
                Ok(less) => {
                    assert_ne!(less.remarks(), whole.remarks(), "{name}: {left_out}");
                    spare += 1;
                }
                Err(e) => {
                    // Where the first block is not found, its prefix is not either.
                    let at = left_out.find("layers.").unwrap_or(0);
                    assert!(e.is_input() && e.to_string().contains(&left_out[at..]), "{name}: {e}");
                }
            }
        }
        let remarks: Vec<_> = whole.remarks().iter().map(|remark| &remark.text).collect();
        assert_eq!(spare > 0, remarks.iter().any(|text| text.contains("not used")), "{remarks:?}");
        // Nothing is used that no reason is known for.
        assert!(
            !remarks.iter().any(|text| text.starts_with("tensors are not used")),
            "{remarks:?}"
        );
        assert!(!remarks.iter().any(|text| text.contains("not known")), "{remarks:?}");
    }
}

#[test]
fn what_is_not_used_has_a_reason() {
    for (name, words) in [
        ("gemma4-e2b", "layers 2 to 4 use the keys and values of earlier layers"),
        ("gemma4-e2b", "k_norm (9 tensors) are in the file and not used, as in transformers"),
        ("gemma3n-b", "altup_correct_scale is false"),
        (
            "diffusion-encoder",
            "the decoder, which writes its canvas, is not run; its own tensors are not used (7: ",
        ),
    ] {
        let (checkpoint, _) = open(name);
        let remarks: Vec<_> =
            checkpoint.remarks().iter().map(|remark| remark.to_string()).collect();
        assert!(remarks.iter().any(|text| text.contains(words)), "{words} in {remarks:?}");
    }
    // A projection of values where keys are taken for them.
    let dir = changed("gemma4-dense", "config.json", |name| Some(name.into()));
    let path = dir.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let full =
        (0..).find(|i| !tensors.contains_key(&format!("model.layers.{i}.self_attn.v_proj.weight")));
    let attention = format!("model.layers.{}.self_attn", full.unwrap());
    let keys = tensors[&format!("{attention}.k_proj.weight")].clone();
    tensors.insert(format!("{attention}.v_proj.weight"), keys);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    checkpoint.check_whole_model().unwrap();
    let remark =
        checkpoint.remarks().iter().find(|remark| remark.text.contains("use keys as values"));
    assert!(remark.is_some_and(|remark| !remark.is_warning()), "{:?}", checkpoint.remarks());
}

/// A block of its own has what it has in the model.
#[test]
fn blocks_alone_are_sparse_too() {
    let (checkpoint, _) = open("gemma3n-a");
    let gemma = Gemma::load(&checkpoint, &Device::Cpu, DType::F32).unwrap();
    let mut sparse = 0;
    for (layer, block) in gemma.layers().iter().zip(checkpoint.blocks()) {
        let alone =
            gemma_mlp::model::load_mlp(&checkpoint, block, DType::F32, &Device::Cpu).unwrap();
        let x = Tensor::randn(0f32, 1.0, (7, block.hidden_size), &Device::Cpu).unwrap();
        use candle_core::Module;
        let [ours, theirs] = [&alone, layer.mlp()].map(|mlp| to_f64(&mlp.forward(&x).unwrap()));
        assert_eq!(ours, theirs);
        sparse += usize::from(block.sparsity > 0.0);
    }
    assert_eq!(sparse, 10);
}

/// A bidirectional model that predicts tokens has a head, and keeps no cache.
#[test]
fn all_positions_see_all() {
    let (checkpoint, goldens) = open("gemma4-all");
    let gemma = Gemma::load(&checkpoint, &Device::Cpu, DType::F32).unwrap();
    assert!(gemma.head().is_some() && !checkpoint.attention().unwrap().causal);
    let error = gemma.forward_cached(&ids(&goldens), &mut Default::default()).unwrap_err();
    assert!(error.to_string().contains("keeps no cache"), "{error}");
    let (checkpoint, _) = open("embedding-gemma2");
    assert!(Gemma::load(&checkpoint, &Device::Cpu, DType::F32).unwrap().head().is_none());
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
