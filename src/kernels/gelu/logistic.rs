//! `x·σ(t(x))` with an odd t, the shape that tanh-GELU and SiLU share; σ is the logistic function.

use super::precision::Precision;
use super::symmetric;

/// t at a z ≥ 0, in two parts of which the second is below an ULP of the first.
type Parts = (f64, f64);

/// `x·σ(t(x))`.
#[inline(always)]
pub fn value<P: Precision>(x: f64, t: impl Fn(f64) -> Parts) -> f64 {
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
pub fn derivative<P: Precision>(
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
            // In this order little is lost near the derivative's zero, where the sum is 0.
            let rest = if P::TWO_PARTS { z.mul_add(-dt_low, e) } else { e };
            let sum = z.mul_add(-dt, 1.0) + rest;
            scaled * inverse_square::<P>(e) * sum
        },
    )
}

/// `1/(1 + e)²`, with one step of Newton's method against the roundings.
#[inline(always)]
fn inverse_square<P: Precision>(e: f64) -> f64 {
    let sum = 1.0 + e;
    let square = sum * sum;
    let inverse = 1.0 / square;
    if P::TWO_PARTS {
        let sum_low = (1.0 - sum) + e;
        let square_low = sum.mul_add(sum, -square) + 2.0 * sum * sum_low;
        let rest = square.mul_add(-inverse, 1.0) - square_low * inverse;
        inverse.mul_add(rest, inverse)
    } else {
        inverse
    }
}

#[inline(always)]
fn exp_of_minus<P: Precision>((hi, lo): Parts) -> f64 {
    P::exp(-hi, -lo)
}
