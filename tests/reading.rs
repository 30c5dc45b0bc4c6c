//! Weights are read from files that others may write to meanwhile.

use crate::common::{self, Spec, gemma3_config, gemma3_specs, write_checkpoint};
use candle_core::{DType, Device, Tensor};
use gemma_mlp::checkpoint::inspect;
use gemma_mlp::model::load_mlp;
use gemma_mlp::{Checkpoint, Error, Gemma};
use half::{bf16, f16};
use safetensors::Dtype;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const WEIGHTS: &str = "model.safetensors";

/// A checkpoint with more tensors, written an hour ago.
fn written(dir: &Path, more: Vec<Spec>) -> PathBuf {
    let mut specs = gemma3_specs("model.");
    specs.extend(more);
    write_checkpoint(dir, &gemma3_config(), &specs);
    let path = dir.join(WEIGHTS);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    path
}

fn bits(tensor: &Tensor) -> Vec<u64> {
    let flat = tensor.flatten_all().unwrap();
    match tensor.dtype() {
        DType::F64 => flat.to_vec1::<f64>().unwrap().iter().map(|x| x.to_bits()).collect(),
        DType::F32 => flat.to_vec1::<f32>().unwrap().iter().map(|x| x.to_bits().into()).collect(),
        DType::BF16 => flat.to_vec1::<bf16>().unwrap().iter().map(|x| x.to_bits().into()).collect(),
        _ => flat.to_vec1::<f16>().unwrap().iter().map(|x| x.to_bits().into()).collect(),
    }
}

/// Every bit of every dtype, NaN included, however long the tensor is beside the 64 KiB that are read
/// at a time; where it begins in its file depends on those before it.
#[test]
fn the_bits_are_those_of_candles_loader() {
    let dir = tempfile::tempdir().unwrap();
    let mut specs = vec![];
    for (dtype, size) in [(Dtype::F64, 8), (Dtype::F32, 4), (Dtype::BF16, 2), (Dtype::F16, 2)] {
        let piece = (64 << 10) / size;
        for n in [0, 1, 3, piece - 1, piece, piece + 1, 2 * piece, 33 * piece + 5] {
            let byte = |i: usize| (i.wrapping_mul(2654435761) >> 13) as u8;
            let bytes = (0..n * size).map(|i| byte(i + n)).collect();
            specs.push(Spec { name: format!("{dtype:?}.{n}"), shape: vec![n], dtype, bytes });
        }
    }
    let names: Vec<_> = specs.iter().map(|spec| (spec.name.clone(), spec.shape[0])).collect();
    let path = written(dir.path(), specs);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let candles = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    for (name, n) in names {
        let (tensors, expected) = (checkpoint.tensors(), &candles[&name]);
        let load = |dtype| tensors.load(&name, &[n], dtype, &Device::Cpu).unwrap();
        let same = load(expected.dtype());
        assert_eq!((same.dtype(), same.dims()), (expected.dtype(), expected.dims()), "{name}");
        assert!(bits(&same) == bits(expected), "{name}");
        let wide = expected.to_dtype(DType::F32).unwrap();
        assert!(bits(&load(DType::F32)) == bits(&wide), "{name} as f32");
        let values = expected.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
        let nonfinite = values.iter().filter(|x| !x.is_finite()).count();
        assert_eq!(tensors.count_nonfinite(&name).unwrap(), nonfinite, "{name}");
    }
}

/// However a weight is asked for.
fn assert_changed(checkpoint: &Checkpoint) {
    let (block, cpu) = (&checkpoint.blocks()[0], &Device::Cpu);
    let tensors = checkpoint.tensors();
    for error in [
        tensors.load("model.norm.weight", &[common::HIDDEN], DType::F32, cpu).err(),
        tensors.count_nonfinite("model.norm.weight").err(),
        tensors.check_unchanged().err(),
        inspect(checkpoint, |_| {}).err(),
        load_mlp(checkpoint, block, DType::F32, cpu).err(),
        Gemma::load(checkpoint, cpu, DType::BF16).err(),
    ] {
        let error = error.unwrap();
        let text = error.to_string();
        assert!(matches!(error, Error::Changed { .. }) && error.is_input(), "{text}");
        assert!(text.contains(WEIGHTS) && text.contains("open it again"), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
}

#[test]
fn a_file_that_changes_is_an_error() {
    let changes: [fn(&Path); 4] = [
        |path| File::options().write(true).open(path).unwrap().set_len(100).unwrap(),
        |path| fs::write(path, []).unwrap(),
        |path| fs::write(path, fs::read(path).unwrap()).unwrap(),
        |path| fs::write(path, [fs::read(path).unwrap(), vec![0]].concat()).unwrap(),
    ];
    for change in changes {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), vec![]);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert!(Gemma::load(&checkpoint, &Device::Cpu, DType::F32).is_ok());
        change(&path);
        assert_changed(&checkpoint);
    }
}

/// What every tool does to a checkpoint: it writes a new file and renames it. Ours stays the old one.
#[cfg(unix)]
#[test]
fn a_file_that_is_replaced_can_still_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = written(dir.path(), vec![]);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let norm = |checkpoint: &Checkpoint| {
        let shape = [common::HIDDEN];
        checkpoint.tensors().load("model.norm.weight", &shape, DType::F32, &Device::Cpu).unwrap()
    };
    let before = norm(&checkpoint);
    fs::write(dir.path().join("new"), "another file").unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    assert_eq!(bits(&norm(&checkpoint)), bits(&before));
    fs::remove_file(path).unwrap();
    assert!(Gemma::load(&checkpoint, &Device::Cpu, DType::F32).is_ok());
}

/// A pipe has no end that could be waited for.
#[cfg(unix)]
#[test]
fn what_is_no_file_is_refused_at_once() {
    let index = "model.safetensors.index.json";
    for name in [WEIGHTS, index, "config.json"] {
        let dir = tempfile::tempdir().unwrap();
        written(dir.path(), vec![]);
        fs::remove_file(dir.path().join(WEIGHTS)).unwrap();
        let path = dir.path().join(name);
        let refused = || {
            let error = Checkpoint::open(dir.path()).err().unwrap();
            let text = error.to_string();
            assert!(matches!(error, Error::NotAFile { .. }) && error.is_input(), "{text}");
            assert!(text.contains(name) && text.contains("not a file"), "{text}");
        };
        let _ = fs::remove_file(&path);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        refused();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        refused();
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        refused();
    }
}
