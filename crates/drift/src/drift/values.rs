//! A tensor's elements on the CPU, of any floating-point dtype, to be read as f64.

use candle_core::{CpuStorage, Device, Layout, Result, Storage, Tensor};
use gemma_mlp::internal::slice;
use gemma_mlp::internal::widen_bf16;
use half::{bf16, f16};
use std::ops::Range;

/// Calls `read` with the elements of a tensor in logical order.
///
/// # Errors
/// An integer dtype, a device that fails.
pub(super) fn with_values<R>(tensor: &Tensor, read: impl FnOnce(Values) -> Result<R>) -> Result<R> {
    let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => read(Values::new(storage, layout)?),
        _ => candle_core::bail!("a tensor that was moved to the CPU is not there"),
    }
}

/// The elements of a contiguous tensor.
#[derive(Clone, Copy)]
pub(super) enum Values<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
    BF16(&'a [bf16]),
    F16(&'a [f16]),
}

impl<'a> Values<'a> {
    fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        Ok(match storage {
            CpuStorage::F32(_) => Self::F32(slice(storage, layout)?),
            CpuStorage::F64(_) => Self::F64(slice(storage, layout)?),
            CpuStorage::BF16(_) => Self::BF16(slice(storage, layout)?),
            CpuStorage::F16(_) => Self::F16(slice(storage, layout)?),
            _ => candle_core::bail!("the tensor holds no floating-point numbers"),
        })
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::BF16(values) => values.len(),
            Self::F16(values) => values.len(),
        }
    }

    /// Widens a range of them into `to`, which is as long.
    #[inline(always)]
    pub(super) fn widen(&self, range: Range<usize>, to: &mut [f64]) {
        match self {
            Self::F32(values) => map(&values[range], to, f64::from),
            Self::F64(values) => to.copy_from_slice(&values[range]),
            Self::BF16(values) => map(&values[range], to, widen_bf16),
            Self::F16(values) => map(&values[range], to, f16::to_f64),
        }
    }
}

#[inline(always)]
fn map<T: Copy>(from: &[T], to: &mut [f64], widen: impl Fn(T) -> f64) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = widen(from));
}
