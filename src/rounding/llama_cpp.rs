//! llama.cpp on the CPU: the tanh form from a table of f16, the exact form in f32. Read from source,
//! not run.
//!
//! `ggml/src/ggml-cpu/vec.h` (`ggml_vec_geglu_f32`, `ggml_vec_geglu_erf_f32`) and `ggml-cpu.c`,
//! which fills the table. llama.cpp's activations are f32, and so is its product: the rounding of
//! that to a half-precision type belongs to the side here, not to llama.cpp.

use super::half_type::HalfType;
use super::real;
use candle_core::{DType, Result, Tensor};
use std::f32::consts::FRAC_1_SQRT_2;

/// f16(gelu(f16(x))) between ±10, and the limits beyond.
pub(super) fn tanh(x: f32) -> f32 {
    if x <= -10.0 {
        0.0
    } else if x >= 10.0 {
        x
    } else {
        let x = HalfType::F16.round(x);
        let inner = real::SQRT_2_OVER_PI * x * (1.0 + 0.044715 * x * x);
        HalfType::F16.round(0.5 * x * (1.0 + real::tanh(inner)))
    }
}

/// [`tanh`] of a tensor, by way of f32. It has no gradient.
pub(super) fn activate(x: &Tensor) -> Result<Tensor> {
    let values = x.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    let values: Vec<f32> = values.into_iter().map(tanh).collect();
    Tensor::from_vec(values, x.shape(), x.device())?.to_dtype(x.dtype())
}

/// `x/2·(1 + erf(x/√2))`.
pub(super) fn exact(x: f32) -> f32 {
    0.5 * x * (1.0 + real::erf(x * FRAC_1_SQRT_2))
}
