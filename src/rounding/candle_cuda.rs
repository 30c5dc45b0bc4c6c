//! candle on CUDA: GELU in the half-precision type, each operator rounding to it. Read from source,
//! not run.
//!
//! candle-kernels 0.11.1, `src/unary.cu` (`gelu_fwd`, `gelu_erf_fwd`) and `src/cuda_utils.cuh`
//! (`tanhg`, `normcdfg`, which widen to f32). The compiler may fuse `x + 0.044715·x³`, which would
//! save one of the roundings; here it is not fused.

use super::half_type::HalfType;
use super::real;

/// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
pub(super) fn tanh(x: f32, dtype: HalfType) -> f32 {
    let round = |x| dtype.round(x);
    let cube = round(round(x * x) * x);
    let sum = round(x + round(round(0.044715) * cube));
    let inner = round(round(real::SQRT_2_OVER_PI) * sum);
    round(round(0.5 * x) * round(1.0 + round(real::tanh(inner))))
}

/// `x·Φ(x)`, with Φ in f32.
pub(super) fn exact(x: f32, dtype: HalfType) -> f32 {
    dtype.round(x * dtype.round(real::normal_cdf(x)))
}
