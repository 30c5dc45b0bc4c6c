//! What an activation is: its names, its formula and its derivative's, the same out of candle's
//! operations, and the truth that it is measured by. Each activation has a file with all of it.

use super::precision::{Precision, Single};
use super::truth::Truth;
use crate::kernels::number::map;
use candle_core::{Result, Tensor};

/// An activation, as a type without values.
pub trait Formula {
    /// Its names: our own, then transformers'. GELU's are in [`Gelu::NAMES`](crate::Gelu::NAMES).
    const NAMES: &'static [&'static str];
    /// Its name in a legend.
    const TITLE: &'static str;
    /// What candle-nn calls it.
    const CANDLE_NN: &'static [candle_nn::Activation];

    /// Its value. To be `#[inline(always)]`: it becomes the body of a loop over vectors.
    fn value<P: Precision>(x: f64) -> f64;
    /// Its derivative. To be `#[inline(always)]` too.
    fn derivative<P: Precision>(x: f64) -> f64;

    /// Writes the value of every x: in f64, and rounded, unless it has a way of its own.
    fn values_f32(x: &[f32], y: &mut [f32]) {
        map(
            x,
            y,
            #[inline(always)]
            |x| Self::value::<Single>(f64::from(x)) as f32,
        );
    }

    /// Its value in f32 or f64, element by element, out of operations that candle has on every device
    /// and differentiates. The gradient has to be finite for every finite x.
    fn composed(x: &Tensor) -> Result<Tensor>;

    /// Its value as a user of candle would write it.
    fn candle(x: &Tensor) -> Result<Tensor>;

    /// Value and derivative of a finite number, sharing nothing with the above.
    fn truth(x: f64) -> Truth<1>;
}

/// Beyond ±800 every activation equals its limit, in f64 too.
const SATURATED: f32 = 800.0;

/// `x·weight(x)` out of candle's operations, the argument of `weight` limited to ±800, and the factor
/// from below, so that the gradient stays finite for large |x|, where that of candle's own `gelu` and
/// `gelu_erf` is NaN.
pub fn weighted(x: &Tensor, weight: impl FnOnce(Tensor) -> Result<Tensor>) -> Result<Tensor> {
    // The factor whose partner is 0 on the far left must not be infinite there.
    let factor = replace(x, &x.lt(-SATURATED)?, -SATURATED)?;
    let inner = replace(&factor, &factor.gt(SATURATED)?, SATURATED)?;
    factor * weight(inner)?
}

/// `value` where the condition holds, else x. Unlike minimum and maximum on a GPU it keeps NaN.
fn replace(x: &Tensor, condition: &Tensor, value: f32) -> Result<Tensor> {
    let value = Tensor::new(value, x.device())?.to_dtype(x.dtype())?;
    condition.where_cond(&value.broadcast_as(x.shape())?, x)
}
