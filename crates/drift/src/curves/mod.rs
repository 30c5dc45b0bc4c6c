//! GELU in both forms, SiLU and ReLU as curves: functions, derivatives, their difference, and the error of every
//! framework preset. Data, not pixels: a report draws them.

mod errors;
mod range;
mod verify;

pub use errors::ErrorCurves;
use errors::relative_errors;
pub use range::{InvalidRange, Range};
pub use verify::{Distance, Verification, VerifiedFunction, verify};

use crate::error::Result;
use candle_core::DType;
use gemma_mlp::Activation;
use gemma_mlp::gelu::measure::Function;
use gemma_mlp::gelu::{Gelu, truth};
use serde::Serialize;

/// A function's graph.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Curve {
    /// What is drawn.
    pub name: String,
    /// Arguments, in rising order.
    pub x: Vec<f64>,
    /// Values; NaN where there is none.
    pub y: Vec<f64>,
}

/// Which curves to compute.
#[derive(Debug, Clone)]
pub struct CurveOptions {
    /// The functions.
    pub functions: Vec<Activation>,
    /// The interval of the arguments.
    pub range: Range,
    /// Also derivatives, the difference of GELU's two, and their errors.
    pub derivatives: bool,
    /// The half type whose rounding presets are measured in: bf16 or f16.
    pub dtype: DType,
}

/// Everything that `gemma-mlp plot` shows.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Curves {
    /// The interval of the arguments.
    pub range: Range,
    /// The functions, in f64.
    pub values: Vec<Curve>,
    /// Their derivatives, if they were asked for.
    pub derivatives: Vec<Curve>,
    /// exact − tanh, and if they were asked for exact' − tanh', by the double-double truth.
    pub differences: Vec<Curve>,
    /// How far presets are from the truth, of the exact form and of the tanh form; then of their
    /// derivatives, if they were asked for.
    pub errors: Vec<ErrorCurves>,
}

/// Points of a curve.
const POINTS: usize = 401;

impl Curves {
    /// Computes the curves.
    ///
    /// # Errors
    /// A dtype in which presets do not differ, that is any but bf16 and f16.
    pub fn new(options: &CurveOptions) -> Result<Self> {
        let CurveOptions { functions, range, derivatives, dtype } = options;
        let of = |derivative: bool| {
            let curve = |&f: &Activation| curve(f, derivative, *range, POINTS);
            functions.iter().map(curve).collect()
        };
        let orders = if *derivatives { &[false, true][..] } else { &[false] };
        Ok(Self {
            range: *range,
            values: of(false),
            derivatives: if *derivatives { of(true) } else { vec![] },
            differences: orders.iter().map(|&d| difference(d, *range, POINTS)).collect(),
            errors: Function::ALL
                .iter()
                .filter(|function| orders.contains(&function.derivative))
                .map(|&function| relative_errors(function, *dtype, *range))
                .collect::<Result<_>>()?,
        })
    }
}

/// An activation or its derivative in f64, at evenly spaced arguments.
fn curve(activation: Activation, derivative: bool, range: Range, points: usize) -> Curve {
    let x = range.points(points);
    let mut y = vec![0.0; x.len()];
    if derivative {
        activation.derivatives(&x, &mut y);
    } else {
        activation.values(&x, &mut y);
    }
    Curve { name: label(activation, derivative), x, y }
}

/// exact − tanh, or the difference of their derivatives, by the double-double truth: rounded once,
/// where a subtraction of two f64 would cancel.
fn difference(derivative: bool, range: Range, points: usize) -> Curve {
    let x = range.points(points);
    let at = |&x: &f64| {
        let [a, b] = [Gelu::Exact, Gelu::Tanh].map(|gelu| {
            let truth = truth(gelu, [x]);
            if derivative { truth.derivative } else { truth.value }
        });
        (a.hi[0] - b.hi[0]) + (a.lo[0] - b.lo[0])
    };
    let y = x.iter().map(at).collect();
    let prime = if derivative { "′" } else { "" };
    Curve { name: format!("exact{prime} − tanh{prime}"), x, y }
}

/// A function's name in a legend.
fn label(activation: Activation, derivative: bool) -> String {
    let name = activation.title();
    if derivative { format!("{name}′") } else { name.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The extremes that docs/gelu.md names.
    #[test]
    fn differences_have_their_known_extremes() {
        let range = Range::new(-4.0, 4.0).unwrap();
        for (derivative, extreme, at) in [(false, 4.732e-4, 2.70), (true, 8.685e-4, 2.02)] {
            let curve = difference(derivative, range, 8001);
            let (i, y) = (0..curve.y.len())
                .map(|i| (i, curve.y[i].abs()))
                .max_by(|a, b| a.1.total_cmp(&b.1))
                .unwrap();
            assert!((y / extreme - 1.0).abs() < 1e-3, "{y}");
            assert!((curve.x[i].abs() - at).abs() < 0.01, "{}", curve.x[i]);
        }
    }

    #[test]
    fn curves_go_from_end_to_end() {
        let range = Range::new(-3.0, 1.0).unwrap();
        let relu = curve(Activation::Relu, false, range, 5);
        assert_eq!((relu.x, relu.y), (vec![-3.0, -2.0, -1.0, 0.0, 1.0], vec![0., 0., 0., 0., 1.]));
    }
}
