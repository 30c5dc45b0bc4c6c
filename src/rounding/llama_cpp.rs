//! llama.cpp on the CPU: the tanh form from a table of f16, which is proven bit for bit, and the exact form in f32, which
//! is read from source.
//!
//! `ggml/src/ggml-cpu/vec.h` (`ggml_vec_geglu_f32`, `ggml_vec_geglu_erf_f32`) and `ggml-cpu.c`,
//! which fills the table. llama.cpp's activations are f32, and so is its product: the rounding of
//! that to a half-precision type belongs to the side here, not to llama.cpp.

use super::half_type::HalfType;
use super::real;
use crate::kernels::activation::Activation;
use crate::kernels::geglu::activate_gradient;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use std::f32::consts::FRAC_1_SQRT_2;

/// f16(gelu(f16(x))) between ±10, and the limits beyond.
pub(super) fn tanh(x: f32) -> f32 {
    if x <= -10.0 {
        0.0
    } else if x >= 10.0 {
        x
    } else {
        let x = HalfType::F16.round(x);
        // A compiler for processors that have it fuses this sum: of all f16 one, -1.999, has another bit without.
        let inner = real::SQRT_2_OVER_PI * x * (0.044715 * x).mul_add(x, 1.0);
        HalfType::F16.round(0.5 * x * (1.0 + real::tanh(inner)))
    }
}

/// [`tanh`] of a tensor of a wide type, by way of f32. Its gradient is that of our own function: a table has none.
pub(super) fn activate(x: &Tensor) -> Result<Tensor> {
    let on_cpu = x.to_device(&Device::Cpu)?.contiguous()?;
    on_cpu.apply_op1(Table)?.to_device(x.device())
}

struct Table;

impl CustomOp1 for Table {
    fn name(&self) -> &'static str {
        "gelu-table-of-f16"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("{} takes what lies in one piece", self.name());
        };
        let y = match x {
            CpuStorage::F32(x) => CpuStorage::F32(x[start..end].iter().map(|&x| tanh(x)).collect()),
            CpuStorage::F64(x) => {
                let of = |&x: &f64| f64::from(tanh(x as f32));
                CpuStorage::F64(x[start..end].iter().map(of).collect())
            }
            _ => candle_core::bail!("{} is for f32 and f64", self.name()),
        };
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        activate_gradient(x, grad, Activation::TANH).map(Some)
    }
}

/// `x/2·(1 + erf(x/√2))`.
pub(super) fn exact(x: f32) -> f32 {
    0.5 * x * (1.0 + real::erf(x * FRAC_1_SQRT_2))
}
