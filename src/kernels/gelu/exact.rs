//! The exact GELU, `x·Φ(x)`, with Φ the standard normal distribution function.
//!
//! Hendrycks & Gimpel 2016, <https://arxiv.org/abs/1606.08415>, equation 1. PyTorch's
//! `F.gelu(x, approximate="none")`, JAX's `jax.nn.gelu(x, approximate=False)`.

use super::formula::{Formula, weighted};
use super::precision::Precision;
use super::{Gelu, Truth, exact_f32, exact_f64, truth};
use candle_core::{Result, Tensor};
use std::f64::consts::FRAC_1_SQRT_2;

pub struct Exact;

impl Formula for Exact {
    const NAMES: &'static [&'static str] = &["exact"];
    const TITLE: &'static str = "GELU exact";
    const CANDLE_NN: &'static [candle_nn::Activation] = &[candle_nn::Activation::Gelu];

    #[inline(always)]
    fn value<P: Precision>(x: f64) -> f64 {
        exact_f64::value::<P>(x)
    }

    #[inline(always)]
    fn derivative<P: Precision>(x: f64) -> f64 {
        exact_f64::derivative::<P>(x)
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
