//! The exact GELU, `x·Φ(x)`, with Φ the standard normal distribution function.
//!
//! Hendrycks & Gimpel 2016, <https://arxiv.org/abs/1606.08415>, equation 1. PyTorch's
//! `F.gelu(x, approximate="none")`, JAX's `jax.nn.gelu(x, approximate=False)`.
//!
//! The usual `(1 + erf(x/√2))/2` loses every digit below x ≈ -5. Here `Φ(-z) = M(z)·e^(-z²/2)`, with
//! Mills' ratio as a rational function that has none but positive coefficients.

use super::precision::Precision;
use super::{Gelu, Truth, exact_f32, symmetric, truth};
use crate::kernels::activation::{Formula, weighted};
use candle_core::{Result, Tensor};
use std::f64::consts::FRAC_1_SQRT_2;

pub struct Exact;

impl Formula for Exact {
    const NAMES: &'static [&'static str] = &["exact"];
    const TITLE: &'static str = "GELU exact";
    const CANDLE_NN: &'static [candle_nn::Activation] = &[candle_nn::Activation::Gelu];

    #[inline(always)]
    fn value<P: Precision>(x: f64) -> f64 {
        symmetric::value::<P>(
            x,
            #[inline(always)]
            |z| times::<P>(bell::<P>(z), P::mills(z)),
        )
    }

    /// `Φ(x) + x·φ(x)`; on the left `e^(-z²/2)·(M(z) - z/√(2π))`.
    #[inline(always)]
    fn derivative<P: Precision>(x: f64) -> f64 {
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

    fn values_f32(x: &[f32], y: &mut [f32]) {
        exact_f32::values(x, y);
    }

    /// `x·(erf(x/√2) + 1)/2`. candle has no `erfc`: below x ≈ -5 this has the absolute error of f32,
    /// not the relative one of the kernel.
    fn composed(x: &Tensor) -> Result<Tensor> {
        weighted(x, |x| ((x * FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)
    }

    fn candle(x: &Tensor) -> Result<Tensor> {
        x.gelu_erf()
    }

    fn truth(x: f64) -> Truth<1> {
        truth(Gelu::Exact, [x])
    }
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
