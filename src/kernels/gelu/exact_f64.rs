//! `x·Φ(x)` and its derivative in f64, Φ being the standard normal distribution function.
//!
//! The usual `(1 + erf(x/√2))/2` loses every digit below x ≈ -5. Here `Φ(-z) = M(z)·e^(-z²/2)`, with
//! Mills' ratio as a rational function that has none but positive coefficients.

use super::precision::Precision;
use super::symmetric;

/// `x·Φ(x)`.
#[inline(always)]
pub fn value<P: Precision>(x: f64) -> f64 {
    symmetric::value::<P>(
        x,
        #[inline(always)]
        |z| times::<P>(bell::<P>(z), P::mills(z)),
    )
}

/// `Φ(x) + x·φ(x)`; on the left `e^(-z²/2)·(M(z) - z/√(2π))`.
#[inline(always)]
pub fn derivative<P: Precision>(x: f64) -> f64 {
    symmetric::derivative::<P>(
        x,
        #[inline(always)]
        |z| {
            let (mills, low) = P::mills(z);
            let (density, density_low) = DENSITY_AT_0;
            let parts = (z.mul_add(-density, mills), z.mul_add(-density_low, low));
            times::<P>(bell::<P>(z), parts)
        },
    )
}

/// `1/√(2π)`, the normal density at 0, in two parts.
const DENSITY_AT_0: (f64, f64) = (0.398_942_280_401_432_7, -2.492_327_202_277_73e-17);

/// `e^(-z²/2)/UNSCALE`, the square in two parts: what it loses is lost z² times over.
#[inline(always)]
fn bell<P: Precision>(z: f64) -> f64 {
    let half = -0.5 * z;
    let square = half * z;
    P::exp(square, half.mul_add(z, -square))
}

/// A product with a number in two parts, or with the first of them.
#[inline(always)]
fn times<P: Precision>(factor: f64, (hi, lo): (f64, f64)) -> f64 {
    if P::TWO_PARTS { factor.mul_add(hi, factor * lo) } else { factor * hi }
}
