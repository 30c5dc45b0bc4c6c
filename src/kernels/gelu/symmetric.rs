//! What GELU in both forms and SiLU have in common: `f(x) = x·C(x)` with `C(x) + C(-x) = 1`.
//!
//! Hence `f(x) - f(-x) = x` and `f'(x) + f'(-x) = 1`, and the left side, where all digits are in
//! danger, is all there is to compute. Nothing cancels there, and on the right nothing can.

use super::precision::{Precision, at_least};

/// The least argument that `C` is told from 1/2 at. Below it, `C` is still evaluated there, so that
/// `x·C(x)` lies on the right side of x/2 when x/2 is half way between two subnormals.
const LEAST: f64 = f64::from_bits((1023 - 50) << 52);

/// `x·C(x)`, from the left tail `C(-z)/UNSCALE`, z ≥ 0.
#[inline(always)]
pub fn value<P: Precision>(x: f64, tail: impl Fn(f64) -> f64) -> f64 {
    // Kept finite on the left, where ∞·0 would be NaN.
    let z = if x.abs() > P::SATURATED { P::SATURATED } else { x.abs() };
    let left = z * tail(at_least(z, LEAST)) * P::UNSCALE;
    if x < 0.0 { -left } else { x - left }
}

/// The derivative of `x·C(x)`, from what it is on the left, `f'(-z)/UNSCALE`, z ≥ 0.
#[inline(always)]
pub fn derivative<P: Precision>(x: f64, slope: impl Fn(f64) -> f64) -> f64 {
    let z = if x.abs() > P::SATURATED { P::SATURATED } else { x.abs() };
    let left = slope(z) * P::UNSCALE;
    if x < 0.0 { left } else { 1.0 - left }
}
