//! A formula as values, which a table of activations can hold.

use super::pointwise::Pointwise;
use crate::kernels::gelu::{Formula, Truth};
use candle_core::{Result, Tensor};

/// A [`Formula`] as values.
pub struct Definition {
    pub names: &'static [&'static str],
    pub title: &'static str,
    pub candle_nn: &'static [candle_nn::Activation],
    pub value: Pointwise,
    pub derivative: Pointwise,
    pub composed: fn(&Tensor) -> Result<Tensor>,
    pub candle: fn(&Tensor) -> Result<Tensor>,
    pub truth: fn(f64) -> Truth<1>,
}

impl Definition {
    pub const fn of<F: Formula>() -> Self {
        Self {
            names: F::NAMES,
            title: F::TITLE,
            candle_nn: F::CANDLE_NN,
            value: Pointwise::value::<F>(),
            derivative: Pointwise::derivative::<F>(),
            composed: F::composed,
            candle: F::candle,
            truth: F::truth,
        }
    }
}
