//! The exact GELU, `x·Φ(x)`, with Φ the standard normal distribution function.
//!
//! Hendrycks & Gimpel 2016, <https://arxiv.org/abs/1606.08415>, equation 1. PyTorch's
//! `F.gelu(x, approximate="none")`, JAX's `jax.nn.gelu(x, approximate=False)`.

use super::Real;
use std::f64::consts::FRAC_1_SQRT_2;

/// `1/sqrt(2π)`, the normal density at 0.
const FRAC_1_SQRT_2PI: f64 = 0.398_942_280_401_432_7;

/// Φ(x) through `erfc`: the usual `(1 + erf(x/√2))/2` loses every digit below x ≈ -5.
fn cdf<T: Real>(x: T) -> T {
    T::of(0.5) * (-x * T::of(FRAC_1_SQRT_2)).erfc()
}

/// `x·Φ(x)`.
pub fn value<T: Real>(x: T) -> T {
    let inner = x.clamp(-T::SATURATED, T::SATURATED);
    // The factor is kept finite on the left, where -∞·0 would be NaN.
    x.clamp(-T::SATURATED, T::INFINITY) * cdf(inner)
}

/// `x·Φ(x)` and its derivative `Φ(x) + x·φ(x)`.
pub fn value_and_derivative<T: Real>(x: T) -> (T, T) {
    let inner = x.clamp(-T::SATURATED, T::SATURATED);
    let cdf = cdf(inner);
    let pdf = (-inner * inner * T::of(0.5)).exp() * T::of(FRAC_1_SQRT_2PI);
    let value = x.clamp(-T::SATURATED, T::INFINITY) * cdf;
    (value, cdf + inner * pdf)
}
