//! The gated activation out of candle's own operations, for devices without a kernel of ours.
//!
//! candle differentiates them. Half-precision types are widened to f32 and rounded once at the end.
//! Tensors without elements are returned as they are: CUDA refuses to start no threads, which
//! candle's comparisons and conversions ask of it.

use crate::kernels::activation::Activation;
use candle_core::{DType, Result, Tensor};

pub(super) fn geglu(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    if gate.elem_count() == 0 {
        return Ok(gate.clone());
    }
    let product = (activation.composed(&widen(gate)?)? * widen(up)?)?;
    product.to_dtype(gate.dtype())
}

pub(super) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    activation.composed(&widen(x)?)?.to_dtype(x.dtype())
}

fn widen(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::F64 => Ok(x.clone()),
        _ => x.to_dtype(DType::F32),
    }
}
