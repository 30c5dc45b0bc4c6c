//! The usual kernel on a GPU: the formula in f32. Read from source, not run.
//!
//! PyTorch's `aten/src/ATen/native/cuda/ActivationGeluKernel.cu`, vLLM's
//! `csrc/activation_kernels.cu` (`gelu_kernel`, `gelu_tanh_kernel`), Liger's
//! `src/liger_kernel/ops/geglu.py` and FlashInfer's `flashinfer/jit/activation.py` write the same
//! formula. nvcc and Triton fuse multiplications with additions unless told otherwise. tanh and erf
//! are the correctly rounded ones here. CUDA's err by 2 ULP at most; FlashInfer's tanh is the
//! instruction `tanh.approx.f32`, with a relative error of 2^-11, which is not emulated.

use super::real;
use std::f32::consts::FRAC_1_SQRT_2;

/// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
pub(super) fn tanh(x: f32) -> f32 {
    let inner = real::SQRT_2_OVER_PI * 0.044715f32.mul_add(x * x * x, x);
    0.5 * x * (1.0 + real::tanh(inner))
}

/// `x/2·(1 + erf(x/√2))`.
pub(super) fn exact(x: f32) -> f32 {
    x * 0.5 * (1.0 + real::erf(x * FRAC_1_SQRT_2))
}
