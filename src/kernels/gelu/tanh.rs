//! The tanh approximation, `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
//!
//! Hendrycks & Gimpel 2016, <https://arxiv.org/abs/1606.08415>, section 2. PyTorch's
//! `F.gelu(x, approximate="tanh")`, JAX's `jax.nn.gelu(x)`, whose default it is.
//! Since `(1 + tanh u)/2 = σ(2u)`, it is evaluated as `x·σ(2u)`: the same function, but without
//! the cancellation of `1 + tanh u` on the left.

use super::formula::{Formula, weighted};
use super::precision::{Precision, two_sum};
use super::{Gelu, Truth, logistic, truth};
use candle_core::{Result, Tensor};
use candle_nn::ops::sigmoid;
use std::f64::consts::FRAC_2_PI;

/// `2·√(2/π)`, in two parts.
const LINEAR: (f64, f64) = (1.595_769_121_605_730_8, -9.969_308_809_110_92e-17);
/// `2·√(2/π)·0.044715`, 0.044715 being the coefficient of x³ as Hendrycks & Gimpel fitted it.
const CUBIC: (f64, f64) = (0.071_354_816_272_600_25, -6.175_149_918_155_315e-19);

pub struct Tanh;

impl Formula for Tanh {
    const NAMES: &'static [&'static str] = &["tanh"];
    const TITLE: &'static str = "GELU tanh";
    const CANDLE_NN: &'static [candle_nn::Activation] =
        &[candle_nn::Activation::NewGelu, candle_nn::Activation::GeluPytorchTanh];

    #[inline(always)]
    fn value<P: Precision>(x: f64) -> f64 {
        logistic::value::<P>(x, twice_u)
    }

    #[inline(always)]
    fn derivative<P: Precision>(x: f64) -> f64 {
        logistic::derivative::<P>(x, twice_u, twice_du)
    }

    fn composed(x: &Tensor) -> Result<Tensor> {
        weighted(x, |x| {
            let cubic = ((x.sqr()? * 0.044715)? + 1.0)?;
            sigmoid(&((x * (2.0 * FRAC_2_PI.sqrt()))? * cubic)?)
        })
    }

    fn candle(x: &Tensor) -> Result<Tensor> {
        x.gelu()
    }

    fn truth(x: f64) -> Truth<1> {
        truth(Gelu::Tanh, [x])
    }
}

/// `CUBIC·z²`, in two parts.
#[inline(always)]
fn cubic(z: f64) -> (f64, f64) {
    let square = z * z;
    let product = CUBIC.0 * square;
    let square_low = z.mul_add(z, -square);
    let low = CUBIC.0.mul_add(square_low, CUBIC.1 * square);
    (product, CUBIC.0.mul_add(square, -product) + low)
}

/// `2u = z·(LINEAR + CUBIC·z²)`, in two parts: what it loses is lost 2u times over.
#[inline(always)]
fn twice_u(z: f64) -> (f64, f64) {
    let (cubic, cubic_low) = cubic(z);
    let (sum, sum_low) = two_sum(LINEAR.0, cubic);
    let sum_low = sum_low + (LINEAR.1 + cubic_low);
    let product = z * sum;
    (product, z.mul_add(sum, -product) + z * sum_low)
}

/// `2u' = LINEAR + 3·CUBIC·z²`, in two parts.
#[inline(always)]
fn twice_du(z: f64) -> (f64, f64) {
    let (cubic, cubic_low) = cubic(z);
    let triple = 3.0 * cubic;
    let triple_low = 3f64.mul_add(cubic, -triple) + 3.0 * cubic_low;
    let (sum, sum_low) = two_sum(LINEAR.0, triple);
    (sum, sum_low + (LINEAR.1 + triple_low))
}
