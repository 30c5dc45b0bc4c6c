//! Our functions against candle's own and against the truth.

use super::Range;
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor, Var, WithDType};
use gemma_mlp::Activation;
use gemma_mlp::Float;
use gemma_mlp::activate;
use gemma_mlp::gelu::DoubleDouble;
use gemma_mlp::gelu::measure::Measured;
use gemma_mlp::internal::{activate_by_candle, activation_truth};
use half::{bf16, f16};
use serde::Serialize;

/// How far our functions are from the truth, and candle's from ours.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Verification {
    /// Version of this layout.
    pub schema: u32,
    /// The dtype that was computed in.
    pub dtype: &'static str,
    /// The interval of the arguments.
    pub range: Range,
    /// How many evenly spaced arguments, each rounded to the type.
    pub points: usize,
    /// Every function, followed by its derivative.
    pub functions: Vec<VerifiedFunction>,
}

/// One function, or its derivative.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct VerifiedFunction {
    /// The function's name; a derivative's ends in a prime.
    pub function: String,
    /// Ours against the truth.
    pub truth: Distance,
    /// candle's own function against the truth.
    pub candle_truth: Distance,
    /// candle's own function against ours.
    pub candle: Distance,
    /// The largest distance to the truth, in ULP, that this crate promises.
    pub bound_ulp: f64,
}

/// The largest difference, and where it is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Distance {
    /// The largest absolute difference.
    pub max_abs: f64,
    /// The argument where it is.
    pub at: f64,
    /// The largest difference in steps of the type at the true value, or, of a derivative, at 1/16
    /// where that is smaller: it passes through 0.
    pub max_ulp: f64,
    /// At how many arguments either value is not finite.
    pub not_finite: usize,
}

/// Arguments.
const POINTS: usize = 20_001;

impl VerifiedFunction {
    /// Whether ours is within its error bound.
    pub fn holds(&self) -> bool {
        self.truth.not_finite == 0 && self.truth.max_ulp <= self.bound_ulp
    }
}

impl Verification {
    /// Whether every function is within its error bound.
    pub fn holds(&self) -> bool {
        self.functions.iter().all(VerifiedFunction::holds)
    }
}

/// Compares activations and their derivatives with candle's own functions, derivatives by candle's
/// automatic differentiation, and with the double-double truth.
///
/// # Errors
/// An integer dtype, candle's errors.
pub fn verify(functions: &[Activation], dtype: DType, range: Range) -> Result<Verification> {
    let verified = match dtype {
        DType::F64 => verified::<f64>(functions, range),
        DType::F32 => verified::<f32>(functions, range),
        DType::BF16 => verified::<bf16>(functions, range),
        DType::F16 => verified::<f16>(functions, range),
        other => Err(Error::NoGelu(other)),
    };
    let functions = verified?;
    Ok(Verification { schema: 1, dtype: dtype.as_str(), range, points: POINTS, functions })
}

fn verified<T: Float + Measured + WithDType>(
    functions: &[Activation],
    range: Range,
) -> Result<Vec<VerifiedFunction>> {
    let x: Vec<T> = range.points(POINTS).into_iter().map(T::from_f64).collect();
    let mut verified = vec![];
    for &function in functions {
        let ours = |x: &Tensor| activate(x, function);
        let candle = |x: &Tensor| activate_by_candle(x, function);
        for derivative in [false, true] {
            let results = |f: &dyn Fn(&Tensor) -> candle_core::Result<Tensor>| -> Result<Vec<f64>> {
                let x = Var::from_slice(&x, x.len(), &Device::Cpu)?;
                let y = f(&x)?;
                let y = match derivative {
                    false => y,
                    true => match y.backward()?.get(&x) {
                        Some(gradient) => gradient.clone(),
                        None => x.zeros_like()?,
                    },
                };
                Ok(y.to_dtype(DType::F64)?.to_vec1()?)
            };
            let (ours, candle) = (results(&ours)?, results(&candle)?);
            let truth = |x: &T| {
                let truth = activation_truth(function, x.wide());
                if derivative { truth.derivative } else { truth.value }
            };
            let truth: Vec<_> = x.iter().map(truth).collect();
            let prime = if derivative { "'" } else { "" };
            let of = |y: &[f64], to: &dyn Fn(usize) -> DoubleDouble<1>| {
                let step = |i: usize| step::<T>(truth[i].hi[0], derivative);
                Distance::largest(x.iter().map(|x| x.wide()), y, to, &step)
            };
            let wide = |i: usize| DoubleDouble::from_f64([ours[i]]);
            verified.push(VerifiedFunction {
                function: format!("{function}{prime}"),
                truth: of(&ours, &|i| truth[i]),
                candle_truth: of(&candle, &|i| truth[i]),
                candle: of(&candle, &wide),
                bound_ulp: bound(T::DIGITS, function),
            });
        }
    }
    Ok(verified)
}

/// The step of the type at a true value.
fn step<T: Measured>(truth: f64, derivative: bool) -> f64 {
    let size = if derivative { truth.abs().max(0.0625) } else { truth.abs() };
    let exponent = (size.to_bits() >> 52) as i32 - 1023;
    libm::ldexp(1.0, exponent.max(T::LEAST_EXPONENT) - (T::DIGITS - 1))
}

/// What docs/numerics.md proves.
fn bound(digits: i32, function: Activation) -> f64 {
    match (digits, function) {
        (_, Activation::Relu) => 0.0,
        (53, _) => 4.0,
        (24, _) => 0.85,
        // Half a step, and what the distance itself is rounded by.
        _ => 0.5 * (1.0 + 1e-9),
    }
}

impl Distance {
    fn largest(
        x: impl Iterator<Item = f64>,
        y: &[f64],
        to: &dyn Fn(usize) -> DoubleDouble<1>,
        step: &dyn Fn(usize) -> f64,
    ) -> Self {
        let mut largest = Self { max_abs: 0.0, at: 0.0, max_ulp: 0.0, not_finite: 0 };
        for (i, (x, &y)) in x.zip(y).enumerate() {
            let reference = to(i);
            if !y.is_finite() || !reference.hi[0].is_finite() {
                largest.not_finite += 1;
                continue;
            }
            let distance = reference.distance(y);
            if distance > largest.max_abs {
                (largest.max_abs, largest.at) = (distance, x);
            }
            largest.max_ulp = largest.max_ulp.max(distance / step(i));
        }
        largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_in_every_type() {
        let range = Range::new(-12.0, 12.0).unwrap();
        for dtype in [DType::F64, DType::F32, DType::BF16, DType::F16] {
            let all = verify(Activation::ALL, dtype, range).unwrap();
            assert_eq!(all.functions.len(), 2 * Activation::ALL.len());
            for row in &all.functions {
                assert!(row.holds(), "{dtype:?} {row:?}");
            }
            assert!(all.holds());
        }
    }

    /// The check tells a wrong function from a right one.
    #[test]
    fn what_is_off_does_not_hold() {
        let range = Range::new(-4.0, 4.0).unwrap();
        let mut all = verify(&[Activation::EXACT], DType::F32, range).unwrap();
        // candle's exact form loses its digits on the left.
        let row = &mut all.functions[0];
        assert!(row.candle_truth.max_ulp > 100.0, "{row:?}");
        row.truth = row.candle_truth;
        assert!(!all.holds());
    }
}
