//! How far each way of computing GELU and its derivative in a half type is from the truth, relative
//! to it.

use super::{Curve, Range};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor, Var};
use gemma_mlp::Activation;
use gemma_mlp::gelu::measure::{Function, Measured};
use gemma_mlp::gelu::truth;
use gemma_mlp::{Framework, Rounding};
use half::{bf16, f16};
use serde::Serialize;

/// The errors of every preset for one form of GELU, or for its derivative.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ErrorCurves {
    /// Which form.
    pub form: &'static str,
    /// Whether they are those of its derivative.
    pub derivative: bool,
    /// The half type.
    pub dtype: &'static str,
    /// A curve for each preset: the largest relative error in every bin; NaN where it has no normal
    /// number.
    pub presets: Vec<Curve>,
}

/// Bins of a curve.
const BINS: usize = 160;

/// The relative error `|y − f(x)|/|f(x)|` of what each preset computes, against the double-double
/// truth: of every number of the type in the range, the largest in each of 160 bins. Passed over are
/// numbers where the true value is subnormal in the type, or 0, and those around the derivative's
/// zero, where a relative error means nothing ([`Function::is_near_zero`]).
///
/// Derivatives come by candle's automatic differentiation, and only from this crate and from candle:
/// [`Framework`] reproduces no gradients.
///
/// # Errors
/// A dtype other than bf16 and f16, the only ones in which presets differ.
pub(super) fn relative_errors(
    function: Function,
    dtype: DType,
    range: Range,
) -> Result<ErrorCurves> {
    let (wide, least): (fn(u16) -> f64, i32) = match dtype {
        DType::BF16 => (|bits| bf16::from_bits(bits).to_f64(), bf16::LEAST_EXPONENT),
        DType::F16 => (|bits| f16::from_bits(bits).to_f64(), f16::LEAST_EXPONENT),
        other => return Err(Error::NoPresets(other)),
    };
    let Function { gelu, derivative } = function;
    let least = libm::ldexp(1.0, least);
    let x: Vec<f64> = (0..=u16::MAX).map(wide).filter(|&x| range.contains(x)).collect();
    let truth: Vec<f64> = x
        .iter()
        .map(|&x| truth(gelu, [x]))
        .map(|truth| if derivative { truth.derivative } else { truth.value }.hi[0])
        .collect();
    let means_something =
        |x: f64, truth: f64| truth.abs() >= least && !function.is_near_zero(x, truth);
    let input = Var::from_tensor(&Tensor::from_slice(&x, x.len(), &Device::Cpu)?.to_dtype(dtype)?)?;
    let curve = |(name, rounding): (String, Rounding)| {
        let y = computed(rounding, function, &input)?;
        let centres = range.points(2 * BINS + 1).into_iter().skip(1).step_by(2).collect();
        let mut worst = vec![f64::NAN; BINS];
        for ((&x, &truth), y) in x.iter().zip(&truth).zip(y) {
            if means_something(x, truth) {
                let share = (x - range.low()) / (range.high() - range.low());
                let bin = ((share * BINS as f64) as usize).min(BINS - 1);
                // A result that is NaN is as wrong as can be.
                let error = if y.is_nan() { f64::INFINITY } else { ((y - truth) / truth).abs() };
                worst[bin] = worst[bin].max(error);
            }
        }
        Ok(Curve { name, x: centres, y: worst })
    };
    let presets = presets(derivative).into_iter().map(curve).collect::<Result<_>>()?;
    Ok(ErrorCurves { form: gelu.name(), derivative, dtype: dtype.as_str(), presets })
}

/// A function of the dtype of x, as a preset computes it.
fn computed(rounding: Rounding, function: Function, x: &Var) -> Result<Vec<f64>> {
    let mut y = rounding.activate(x, Activation::Gelu(function.gelu))?;
    if function.derivative {
        y = match y.backward()?.get(x) {
            Some(gradient) => gradient.clone(),
            None => x.zeros_like()?,
        };
    }
    Ok(y.to_dtype(DType::F64)?.to_vec1()?)
}

/// All ways of rounding that differ in a half type, by name: this crate's and candle's, and, but for
/// derivatives, the frameworks'.
fn presets(derivative: bool) -> Vec<(String, Rounding)> {
    let own = [("gemma-mlp", Rounding::Once), ("candle", Rounding::EveryOp)];
    let own = own.map(|(name, rounding)| (name.to_string(), rounding));
    let frameworks = Framework::ALL.iter().map(|&framework| {
        let source = if framework.is_proven() { "" } else { " (read from source)" };
        (format!("{framework}{source}"), Rounding::Like(framework))
    });
    own.into_iter().chain(frameworks.filter(|_| !derivative)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gemma_mlp::gelu::Gelu;

    /// Ours is the nearest number everywhere: half a step, 2^-8 of bf16's, and no preset is better.
    #[test]
    fn ours_is_the_least() {
        let range = Range::new(-4.0, 4.0).unwrap();
        for &function in Function::ALL {
            let errors = relative_errors(function, DType::BF16, range).unwrap();
            let [ours, others @ ..] = &errors.presets[..] else { panic!("no presets") };
            // Around the derivative's zero nothing is said.
            let drawn = ours.y.iter().filter(|e| !e.is_nan());
            assert!(drawn.clone().all(|&e| e > 0.0 && e <= 2f64.powi(-8)), "{ours:?}");
            assert_eq!(drawn.count() == ours.y.len(), !function.derivative);
            assert_eq!(others.len(), if function.derivative { 1 } else { 7 });
            for other in others {
                let mut pairs = other.y.iter().zip(&ours.y);
                assert!(pairs.all(|(other, ours)| ours.is_nan() || other >= ours), "{other:?}");
            }
            // candle computes the exact form of bf16 in f64, everything else in bf16.
            let worst = |c: &Curve| c.y.iter().copied().fold(0.0, f64::max);
            let candle = worst(&others[0]) / worst(ours);
            let exact = function == Function { gelu: Gelu::Exact, derivative: false };
            assert!(if exact { candle == 1.0 } else { candle > 10.0 }, "{function} {candle}");
        }
        assert!(relative_errors(Function::ALL[0], DType::F32, range).is_err());
    }
}
