//! Half types bit for bit: all their numbers, and what frameworks were recorded to make of them.

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use half::{bf16, f16};
use std::collections::HashMap;

pub const HALVES: [DType; 2] = [DType::BF16, DType::F16];

/// A tensor from its bits.
fn tensor(bits: impl Iterator<Item = u16>, dtype: DType) -> Tensor {
    match dtype {
        DType::BF16 => Tensor::from_iter(bits.map(bf16::from_bits), &Device::Cpu),
        _ => Tensor::from_iter(bits.map(f16::from_bits), &Device::Cpu),
    }
    .unwrap()
}

/// A half type's bits, with one pattern for every NaN.
pub fn bits(tensor: &Tensor) -> Vec<u16> {
    // On a GPU or not; a part of another tensor becomes one of its own.
    let tensor = tensor.to_device(&Device::Cpu).unwrap();
    let tensor = tensor.flatten_all().unwrap().force_contiguous().unwrap();
    let (storage, _) = tensor.storage_and_layout();
    let one_nan = |nan: bool, bits: u16| if nan { u16::MAX } else { bits };
    match &*storage {
        Storage::Cpu(CpuStorage::BF16(v)) => {
            v.iter().map(|x| one_nan(x.is_nan(), x.to_bits())).collect()
        }
        Storage::Cpu(CpuStorage::F16(v)) => {
            v.iter().map(|x| one_nan(x.is_nan(), x.to_bits())).collect()
        }
        _ => panic!("no half type on the CPU"),
    }
}

/// Every number of a half type, in the order of its bits.
pub fn every(dtype: DType) -> Tensor {
    tensor(0..=u16::MAX, dtype)
}

/// The factor for each, as `ups` in the script computes it.
pub fn ups(dtype: DType) -> Tensor {
    let (mantissa, eighth) = if dtype == DType::BF16 { (7, 124) } else { (10, 12) };
    let up = |i: u16| {
        let mixed = i.wrapping_mul(40503);
        let exponent = eighth + (mixed >> 2 & 7);
        mixed & 0x8000 | exponent << mantissa | mixed & ((1 << mantissa) - 1)
    };
    tensor((0..=u16::MAX).map(up), dtype)
}

/// How many numbers have other bits.
pub fn differing(a: &Tensor, b: &Tensor) -> usize {
    let (a, b) = (bits(a), bits(b));
    assert_eq!(a.len(), b.len());
    a.iter().zip(&b).filter(|(a, b)| a != b).count()
}

/// What `scripts/goldens_rounding.py` recorded, for [`every`] gate and its up of [`ups`].
pub fn goldens() -> HashMap<String, Tensor> {
    let path = format!("{}/tests/goldens/rounding.safetensors", env!("CARGO_MANIFEST_DIR"));
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}
