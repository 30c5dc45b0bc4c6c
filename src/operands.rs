//! What operations ask of their tensors.

use candle_core::{CpuStorage, Error, Layout, Result, Tensor, WithDType};

/// The elements of a contiguous tensor.
pub(crate) fn slice<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&T::cpu_storage_as_slice(storage)?[start..end]),
        None => candle_core::bail!("the operation takes contiguous tensors"),
    }
}

/// Refuses two tensors of which an operation takes the elements in pairs, if they differ in shape or
/// dtype.
pub(crate) fn check_pair(a: &Tensor, b: &Tensor, op: &'static str) -> Result<()> {
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
