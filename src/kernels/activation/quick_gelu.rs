//! `x·σ(1.702·x)`, the logistic approximation to GELU.
//!
//! Hendrycks & Gimpel 2016, <https://arxiv.org/abs/1606.08415>, section 2. transformers'
//! `quick_gelu` (`activations.py`, `QuickGELUActivation`).

use crate::kernels::gelu::{Formula, Precision, Truth, logistic, logistic_truth, weighted};
use candle_core::{Result, Tensor};
use candle_nn::ops::sigmoid;

/// The slope of the logistic function's argument.
const SLOPE: f64 = 1.702;

pub struct QuickGelu;

impl Formula for QuickGelu {
    const NAMES: &'static [&'static str] = &["quick_gelu"];
    const TITLE: &'static str = "quick GELU";
    const CANDLE_NN: &'static [candle_nn::Activation] = &[];

    #[inline(always)]
    fn value<P: Precision>(x: f64) -> f64 {
        logistic::value::<P>(x, argument)
    }

    #[inline(always)]
    fn derivative<P: Precision>(x: f64) -> f64 {
        logistic::derivative::<P>(
            x,
            argument,
            #[inline(always)]
            |_| (SLOPE, 0.0),
        )
    }

    fn composed(x: &Tensor) -> Result<Tensor> {
        weighted(x, |x| sigmoid(&(x * SLOPE)?))
    }

    fn candle(x: &Tensor) -> Result<Tensor> {
        x * sigmoid(&(x * SLOPE)?)?
    }

    fn truth(x: f64) -> Truth<1> {
        logistic_truth(SLOPE, [x])
    }
}

/// `1.702·z`, in two parts.
#[inline(always)]
fn argument(z: f64) -> (f64, f64) {
    let product = SLOPE * z;
    (product, SLOPE.mul_add(z, -product))
}
