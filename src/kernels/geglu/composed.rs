//! The same operations out of candle's own, for devices without a kernel of ours.
//!
//! candle differentiates them. Half types are widened to f32 and rounded once at the end. The
//! argument of the saturating function is limited first, so that the gradient stays finite for
//! large |x|, where candle's own `gelu` and `gelu_erf` give NaN. candle has no `erfc`: below
//! x ≈ -5 the exact form has the absolute error of f32, not the relative one of the CPU kernel.
//! Tensors without elements are returned as they are: CUDA refuses to start no threads, which
//! candle's comparisons and conversions ask of it.

use crate::kernels::elementwise::{Activation, QUICK};
use crate::kernels::gelu::Gelu;
use candle_core::{DType, Result, Tensor};
use candle_nn::ops::sigmoid;
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

/// Beyond ±800 every activation equals its limit, in f64 too.
const SATURATED: f32 = 800.0;

pub(super) fn geglu(gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
    if gate.elem_count() == 0 {
        return Ok(gate.clone());
    }
    let product = (wide_activate(gate, activation)? * widen(up)?)?;
    product.to_dtype(gate.dtype())
}

pub(super) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    if x.elem_count() == 0 {
        return Ok(x.clone());
    }
    wide_activate(x, activation)?.to_dtype(x.dtype())
}

fn widen(x: &Tensor) -> Result<Tensor> {
    match x.dtype() {
        DType::F64 => Ok(x.clone()),
        _ => x.to_dtype(DType::F32),
    }
}

fn wide_activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    let x = widen(x)?;
    if activation == Activation::Relu {
        // candle's own relu has derivative 1 at 0.
        let zero = x.zeros_like()?;
        return x.le(&zero)?.where_cond(&zero, &x);
    }
    // The factor whose partner is 0 on the far left must not be infinite there.
    let factor = replace(&x, &x.lt(-SATURATED)?, -SATURATED)?;
    let inner = replace(&factor, &factor.gt(SATURATED)?, SATURATED)?;
    let weight = match activation {
        Activation::Gelu(Gelu::Exact) => (((inner * FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)?,
        Activation::Gelu(Gelu::Tanh) => {
            let cubic = ((inner.sqr()? * 0.044715)? + 1.0)?;
            sigmoid(&((inner * (2.0 * FRAC_2_PI.sqrt()))? * cubic)?)?
        }
        Activation::QuickGelu => sigmoid(&(inner * QUICK)?)?,
        Activation::Silu | Activation::Relu => sigmoid(&inner)?,
    };
    factor * weight
}

/// `value` where the condition holds, else x. Unlike minimum and maximum on a GPU it keeps NaN.
fn replace(x: &Tensor, condition: &Tensor, value: f32) -> Result<Tensor> {
    let value = Tensor::new(value, x.device())?.to_dtype(x.dtype())?;
    condition.where_cond(&value.broadcast_as(x.shape())?, x)
}
