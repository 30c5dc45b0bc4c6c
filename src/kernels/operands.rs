//! What operations ask of their tensors.

use candle_core::{CpuStorage, Error, Layout, Result, Storage, Tensor, WithDType};

/// The elements of a contiguous tensor.
pub fn slice<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&T::cpu_storage_as_slice(storage)?[start..end]),
        None => candle_core::bail!("the operation takes contiguous tensors"),
    }
}

/// Calls `f` with the elements of a contiguous tensor in the CPU's memory.
pub fn with_slice<T: WithDType, R>(x: &Tensor, f: impl FnOnce(&[T]) -> R) -> Result<R> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(slice(storage, layout)?)),
        _ => candle_core::bail!("the operation runs in the CPU's memory"),
    }
}

/// Refuses two tensors of which an operation takes the elements in pairs, if they differ in shape or
/// dtype.
pub fn check_pair(a: &Tensor, b: &Tensor, op: &'static str) -> Result<()> {
    if a.shape() != b.shape() {
        return Err(Error::ShapeMismatchBinaryOp {
            lhs: a.shape().clone(),
            rhs: b.shape().clone(),
            op,
        });
    }
    if a.dtype() != b.dtype() {
        return Err(Error::DTypeMismatchBinaryOp { lhs: a.dtype(), rhs: b.dtype(), op });
    }
    Ok(())
}
