//! PyTorch on the CPU: `F.gelu` of a half-precision type in f32, as its vectors compute it.
//!
//! PyTorch 2.15.0, `aten/src/ATen/native/cpu/Activation.cpp` (`GeluKernelImpl`) and
//! `aten/src/ATen/cpu/vec/vec512/vec512_float.h`; nothing is fused that is not written so.

use super::real::SQRT_2_OVER_PI;
use super::{onednn, sleef};
use std::f32::consts::FRAC_1_SQRT_2;

/// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
pub(super) fn tanh(x: f32) -> f32 {
    let inner = SQRT_2_OVER_PI * (x + 0.044715 * (x * x * x));
    0.5 * x * (1.0 + sleef::tanh(inner))
}

/// The exact form for f16: `x/2·(1 + erf(x/√2))`.
pub(super) fn exact(x: f32) -> f32 {
    x * 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// The exact form for bf16, which goes through oneDNN. The processor's instruction for rounding to
/// bf16, `VCVTNEPS2BF16`, takes subnormal numbers for 0.
pub(super) fn exact_bf16(x: f32) -> f32 {
    let y = onednn::gelu(x);
    if y.is_subnormal() { 0f32.copysign(y) } else { y }
}

/// erf by formula 7.1.26 of Abramowitz and Stegun, good to 1.5e-7.
fn erf(x: f32) -> f32 {
    let t = 1.0 / 0.327_591_1_f32.mul_add(x.abs(), 1.0);
    let mut r = 1.061_405_4_f32;
    for coefficient in [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6] {
        r = r.mul_add(t, coefficient);
    }
    let erf = (-sleef::exp(-(x * x)) * t).mul_add(r, 1.0);
    f32::from_bits(erf.to_bits() ^ (x.to_bits() & 1 << 31))
}
