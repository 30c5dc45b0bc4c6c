//! Models whose weights stay in their files compute what those in memory do.

use candle_core::{DType, Device, Result, Tensor};
use gemma_mlp::model::{Cache, Pass};
use gemma_mlp::{Checkpoint, EncoderDecoder, Gating, Gelu, Gemma, Rounding};
use std::fs;
use std::path::{Path, PathBuf};

fn checkpoints() -> Vec<PathBuf> {
    let families = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families");
    let dirs = fs::read_dir(families).unwrap().map(|entry| entry.unwrap().path());
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/tiny-gemma3");
    let mut all: Vec<_> = dirs.filter(|dir| dir.is_dir()).chain([tiny]).collect();
    all.sort();
    all
}

fn open(dir: &Path) -> [Checkpoint; 2] {
    [Checkpoint::open(dir).unwrap(), Checkpoint::open(dir).unwrap().streamed()]
}

/// Two texts of several tokens.
fn ids(checkpoint: &Checkpoint) -> Result<Tensor> {
    let vocab = checkpoint.config().decoder().vocab_size as u32;
    let ids: Vec<u32> = (0..22).map(|i| (2 + i * 37) % vocab.min(200)).collect();
    Tensor::from_vec(ids, (2, 11), &Device::Cpu)
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let wide = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
    wide.to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// Hidden states and what is made of them, of a batch, with and without a cache, and under two activations at once.
fn outputs(checkpoint: &Checkpoint, dtype: DType) -> Result<Vec<Tensor>> {
    let ids = ids(checkpoint)?;
    if checkpoint.config().encoder().is_some() {
        let model = EncoderDecoder::load(checkpoint, &Device::Cpu, dtype).unwrap();
        return Ok(vec![model.hidden(&ids, None, &ids, &mut ())?]);
    }
    let gemma = Gemma::load(checkpoint, &Device::Cpu, dtype).unwrap();
    let mut outputs = vec![gemma.hidden(&ids, &mut ())?];
    let gating =
        |activation: Gelu| Gating { activation: activation.into(), rounding: Rounding::Once };
    let gatings = vec![gating(Gelu::Tanh), gating(Gelu::Exact)];
    outputs.push(gemma.hidden_in(Pass::new().with_gatings(gatings), &ids, &mut ())?);
    if gemma.head().is_some() {
        outputs.push(gemma.forward(&ids)?);
        let mut cache = Cache::default();
        if gemma.seen_ahead() == 0 {
            outputs.push(gemma.forward_cached(&ids.narrow(1, 0, 7)?, &mut cache)?);
            outputs.push(gemma.forward_cached(&ids.narrow(1, 7, 4)?, &mut cache)?);
        }
    }
    Ok(outputs)
}

#[test]
fn every_family_has_the_same_bits() -> Result<()> {
    for dir in checkpoints() {
        for dtype in [DType::F32, DType::BF16] {
            let [memory, file] = open(&dir).map(|checkpoint| outputs(&checkpoint, dtype));
            for (memory, file) in memory?.iter().zip(&file?) {
                assert_eq!(bits(memory), bits(file), "{} in {dtype:?}", dir.display());
            }
        }
    }
    Ok(())
}

#[test]
fn f64_is_computed_by_the_same_weights() -> Result<()> {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/tiny-gemma3");
    let [memory, file] = open(&tiny).map(|checkpoint| outputs(&checkpoint, DType::F64));
    for (memory, file) in memory?.iter().zip(&file?) {
        let largest = (memory - file)?.abs()?.max_all()?.to_scalar::<f64>()?;
        assert!(largest < 1e-12, "{largest:e}");
    }
    Ok(())
}

/// A file that is written to between two passes.
#[test]
fn what_changes_meanwhile_is_an_error() -> Result<()> {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/tiny-gemma3");
    let dir = tempfile::tempdir()?;
    for file in ["config.json", "model.safetensors"] {
        fs::copy(tiny.join(file), dir.path().join(file))?;
    }
    let checkpoint = Checkpoint::open(dir.path()).unwrap().streamed();
    let gemma = Gemma::load(&checkpoint, &Device::Cpu, DType::F32).unwrap();
    let ids = ids(&checkpoint)?;
    gemma.forward(&ids)?;
    let weights = dir.path().join("model.safetensors");
    let file = fs::OpenOptions::new().append(true).open(&weights)?;
    file.set_len(fs::metadata(&weights)?.len() - 4)?;
    let error = gemma.forward(&ids).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("changed"), "{error}");
    Ok(())
}
