//! ReLU, `max(x, 0)`, with derivative 0 at 0 as in PyTorch and JAX.

use crate::kernels::gelu::{DoubleDouble, Formula, Precision, Truth};
use candle_core::{Result, Tensor};

pub struct Relu;

impl Formula for Relu {
    const NAMES: &'static [&'static str] = &["relu"];
    const TITLE: &'static str = "ReLU";
    const CANDLE_NN: &'static [candle_nn::Activation] = &[candle_nn::Activation::Relu];

    #[inline(always)]
    fn value<P: Precision>(x: f64) -> f64 {
        if x <= 0.0 { 0.0 } else { x }
    }

    #[inline(always)]
    fn derivative<P: Precision>(x: f64) -> f64 {
        // NaN is neither above nor below.
        if x > 0.0 {
            1.0
        } else if x <= 0.0 {
            0.0
        } else {
            x
        }
    }

    fn composed(x: &Tensor) -> Result<Tensor> {
        // candle's own relu has derivative 1 at 0.
        let zero = x.zeros_like()?;
        x.le(&zero)?.where_cond(&zero, x)
    }

    fn candle(x: &Tensor) -> Result<Tensor> {
        x.relu()
    }

    fn truth(x: f64) -> Truth<1> {
        let (value, derivative) = if x > 0.0 { (x, 1.0) } else { (0.0, 0.0) };
        let [value, derivative] = [value, derivative].map(|x| DoubleDouble::from_f64([x]));
        Truth { value, derivative }
    }
}
