//! SiLU, `x·σ(x)` with the logistic function σ, also called swish.
//!
//! Hendrycks & Gimpel 2016, <https://arxiv.org/abs/1606.08415>, section 2, where it is first named;
//! Ramachandran, Zoph & Le 2017, <https://arxiv.org/abs/1710.05941>. PyTorch's `F.silu`.

use crate::kernels::gelu::{Formula, Precision, Truth, logistic, logistic_truth, weighted};
use candle_core::{Result, Tensor};
use candle_nn::ops::sigmoid;

pub struct Silu;

impl Formula for Silu {
    const NAMES: &'static [&'static str] = &["silu", "swish"];
    const TITLE: &'static str = "SiLU";
    const CANDLE_NN: &'static [candle_nn::Activation] =
        &[candle_nn::Activation::Silu, candle_nn::Activation::Swish];

    #[inline(always)]
    fn value<P: Precision>(x: f64) -> f64 {
        logistic::value::<P>(x, identity)
    }

    #[inline(always)]
    fn derivative<P: Precision>(x: f64) -> f64 {
        logistic::derivative::<P>(
            x,
            identity,
            #[inline(always)]
            |_| (1.0, 0.0),
        )
    }

    fn composed(x: &Tensor) -> Result<Tensor> {
        weighted(x, |x| sigmoid(&x))
    }

    fn candle(x: &Tensor) -> Result<Tensor> {
        x.silu()
    }

    fn truth(x: f64) -> Truth<1> {
        logistic_truth(1.0, [x])
    }
}

/// `z`, in two parts.
#[inline(always)]
fn identity(z: f64) -> (f64, f64) {
    (z, 0.0)
}
