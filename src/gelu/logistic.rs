//! `x·σ(t(x))` with an odd t, the shape that tanh-GELU and SiLU share; σ is the logistic function.

use super::precision::Precision;
use super::symmetric;

/// t at a z ≥ 0, in two parts of which the second is below an ULP of the first.
type Parts = (f64, f64);

/// `x·σ(t(x))`.
#[inline(always)]
pub(crate) fn value<P: Precision>(x: f64, t: impl Fn(f64) -> Parts) -> f64 {
    symmetric::value::<P>(
        x,
        #[inline(always)]
        |z| {
            let e = exp_of_minus::<P>(t(z));
            e / (1.0 + e * P::UNSCALE)
        },
    )
}

/// `σ + x·σ·(1 - σ)·t'`, the derivative; on the left `e·(1 + e - z·t')/(1 + e)²`, `e = e^-t`.
#[inline(always)]
pub(crate) fn derivative<P: Precision>(
    x: f64,
    t: impl Fn(f64) -> Parts,
    dt: impl Fn(f64) -> Parts,
) -> f64 {
    symmetric::derivative::<P>(
        x,
        #[inline(always)]
        |z| {
            let (scaled, (dt, dt_low)) = (exp_of_minus::<P>(t(z)), dt(z));
            let e = scaled * P::UNSCALE;
            let upper = 1.0 / (1.0 + e);
            // In this order the sum is exact near the derivative's zero.
            let sum = z.mul_add(-dt, 1.0) + e;
            let sum = if P::TWO_PARTS { z.mul_add(-dt_low, sum) } else { sum };
            scaled * (upper * upper) * sum
        },
    )
}

#[inline(always)]
fn exp_of_minus<P: Precision>((hi, lo): Parts) -> f64 {
    P::exp(-hi, -lo)
}
