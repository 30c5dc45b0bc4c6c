//! How finely the formulas are evaluated: for results that are rounded to f32 or narrower, or for
//! f64 itself. Everything is computed in f64; the two differ in the length of their polynomials,
//! and in whether the exponent is carried in two parts.

use super::coefficients::{
    EXP_DOUBLE, EXP_SINGLE, MILLS_ABOVE_DOUBLE, MILLS_ABOVE_SINGLE, MILLS_BELOW_DOUBLE,
    MILLS_BELOW_SINGLE,
};
use crate::kernels::exp::{LN_2, exponent, polynomial};

/// A precision that the formulas are evaluated in.
pub trait Precision: 'static {
    /// Where the argument is limited: beyond, every activation equals its limit after rounding.
    const SATURATED: f64;
    /// What [`Precision::exp`] has to be multiplied with. A factor that comes last, so that what
    /// underflows is rounded once.
    const UNSCALE: f64;
    /// `e^(hi + lo) / UNSCALE` for `hi ≤ 0` and `lo` below an ULP of it.
    fn exp(hi: f64, lo: f64) -> f64;
    /// Whether [`Precision::mills`] has a second part.
    const TWO_PARTS: bool;
    /// `Φ(-z)·e^(z²/2)` for z ≥ 0, Mills' ratio of the normal distribution over √(2π), in two parts.
    fn mills(z: f64) -> (f64, f64);
}

/// Good to a relative 2^-33, for results that are rounded to f32, bf16 or f16.
pub struct Single;

/// Good to a few units in the last place of f64.
pub struct Double;

impl Precision for Single {
    const SATURATED: f64 = 128.0;
    const UNSCALE: f64 = 1.0;
    const TWO_PARTS: bool = false;

    #[inline(always)]
    fn exp(hi: f64, _: f64) -> f64 {
        let x = at_least(hi, -400.0);
        let (shifted, k) = exponent(x);
        let r = k.mul_add(-std::f64::consts::LN_2, x);
        times_power(polynomial(&EXP_SINGLE, r).mul_add(r, 1.0), shifted)
    }

    #[inline(always)]
    fn mills(z: f64) -> (f64, f64) {
        (polynomial(&MILLS_ABOVE_SINGLE, z) / polynomial(&MILLS_BELOW_SINGLE, z), 0.0)
    }
}

impl Precision for Double {
    const SATURATED: f64 = 800.0;
    /// 2^-256.
    const UNSCALE: f64 = f64::from_bits((1023 - 256) << 52);
    const TWO_PARTS: bool = true;

    #[inline(always)]
    fn exp(hi: f64, lo: f64) -> f64 {
        let x = at_least(hi, -800.0);
        let (shifted, k) = exponent(x);
        let high = k.mul_add(-LN_2.0, x); // exact
        let low = k.mul_add(-LN_2.1, lo);
        let r = high + low;
        let curve = (r * r).mul_add(polynomial(&EXP_DOUBLE, r), low);
        let (line, line_low) = two_sum(1.0, high);
        let sum = line + (line_low + curve);
        times_power(sum, shifted + 256.0)
    }

    #[inline(always)]
    fn mills(z: f64) -> (f64, f64) {
        let (above, above_low) = compensated(&MILLS_ABOVE_DOUBLE, z);
        let (below, below_low) = compensated(&MILLS_BELOW_DOUBLE, z);
        let ratio = above / below;
        let rest = ratio.mul_add(-below, above) + ratio.mul_add(-below_low, above_low);
        (ratio, rest / below)
    }
}

/// `x·2^k`, with k in the low bits of `shifted`; both normal numbers.
#[inline(always)]
fn times_power(x: f64, shifted: f64) -> f64 {
    f64::from_bits(x.to_bits().wrapping_add(shifted.to_bits() << 52))
}

/// The larger one; NaN stays NaN.
#[inline(always)]
pub(super) fn at_least(x: f64, least: f64) -> f64 {
    if x < least { least } else { x }
}

/// A polynomial with what its roundings took away, as a second part (Graillat, Langlois and Louvet 2009,
/// <https://doi.org/10.1007/BF03186531>).
#[inline(always)]
fn compensated<const N: usize>(coefficients: &[f64; N], x: f64) -> (f64, f64) {
    let (mut sum, mut lost) = (coefficients[N - 1], 0.0f64);
    let mut n = N - 1;
    while n > 0 {
        n -= 1;
        let product = sum * x;
        let product_low = sum.mul_add(x, -product);
        let sum_low;
        (sum, sum_low) = two_sum(product, coefficients[n]);
        lost = lost.mul_add(x, product_low + sum_low);
    }
    (sum, lost)
}

/// `a + b` and what rounding took away, exactly, whichever is the larger (Knuth, TAOCP 4.2.2).
#[inline(always)]
pub(super) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let part = sum - a;
    (sum, (a - (sum - part)) + (b - part))
}
