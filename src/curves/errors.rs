//! How far each way of computing GELU in a half type is from the truth, relative to it.

use super::{Curve, Range};
use crate::activation::Activation;
use crate::error::{Error, Result};
use crate::gelu::measure::Measured;
use crate::gelu::{Gelu, truth};
use crate::rounding::{Framework, Rounding};
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use serde::Serialize;

/// The errors of every preset for one form of GELU.
#[derive(Debug, Clone, Serialize)]
pub struct ErrorCurves {
    /// Which form.
    pub form: &'static str,
    /// The half type.
    pub dtype: &'static str,
    /// A curve for each preset: the largest relative error in every bin; NaN where it has no normal
    /// number.
    pub presets: Vec<Curve>,
}

/// Bins of a curve.
const BINS: usize = 160;

/// The relative error `|y − f(x)|/|f(x)|` of the activation that each preset computes, against the
/// double-double truth: of every number of the type in the range, the largest in each of 160 bins.
/// Numbers where the true value is subnormal in the type, or 0, are passed over.
///
/// # Errors
/// A dtype other than bf16 and f16, the only ones in which presets differ.
pub fn relative_errors(gelu: Gelu, dtype: DType, range: Range) -> Result<ErrorCurves> {
    let (wide, least): (fn(u16) -> f64, i32) = match dtype {
        DType::BF16 => (|bits| bf16::from_bits(bits).to_f64(), bf16::LEAST_EXPONENT),
        DType::F16 => (|bits| f16::from_bits(bits).to_f64(), f16::LEAST_EXPONENT),
        other => {
            return Err(Error::Input(format!(
                "presets compute one and the same GELU in {}; pass bf16 or f16",
                other.as_str()
            )));
        }
    };
    let least = libm::ldexp(1.0, least);
    let x: Vec<f64> = (0..=u16::MAX).map(wide).filter(|&x| range.contains(x)).collect();
    let truth: Vec<f64> = x.iter().map(|&x| truth(gelu, [x]).value.hi[0]).collect();
    let input = Tensor::from_slice(&x, x.len(), &Device::Cpu)?.to_dtype(dtype)?;
    let preset = |(name, rounding): (String, Rounding)| {
        let y = rounding.activate(&input, Activation::Gelu(gelu))?.to_dtype(DType::F64)?;
        let y = y.to_vec1::<f64>()?;
        let centres = range.points(2 * BINS + 1).into_iter().skip(1).step_by(2).collect();
        let mut worst = vec![f64::NAN; BINS];
        for ((&x, &truth), y) in x.iter().zip(&truth).zip(y) {
            if truth.abs() >= least {
                let share = (x - range.low()) / (range.high() - range.low());
                let bin = ((share * BINS as f64) as usize).min(BINS - 1);
                // A result that is NaN is as wrong as can be.
                let error = if y.is_nan() { f64::INFINITY } else { ((y - truth) / truth).abs() };
                worst[bin] = worst[bin].max(error);
            }
        }
        Ok(Curve { name, x: centres, y: worst })
    };
    let presets = presets().map(preset).collect::<Result<_>>()?;
    Ok(ErrorCurves { form: gelu.name(), dtype: dtype.as_str(), presets })
}

/// All ways of rounding that differ in a half type, by name.
fn presets() -> impl Iterator<Item = (String, Rounding)> {
    let own = [("gemma-mlp", Rounding::Once), ("candle", Rounding::EveryOp)];
    let own = own.map(|(name, rounding)| (name.to_string(), rounding));
    let frameworks = Framework::ALL.map(|framework| {
        let source = if framework.is_proven() { "" } else { " (read from source)" };
        (format!("{framework}{source}"), Rounding::Like(framework))
    });
    own.into_iter().chain(frameworks)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ours is the nearest number everywhere: half a step, 2^-8 of bf16's, and no preset is better.
    #[test]
    fn ours_is_the_least() {
        let range = Range::new(-4.0, 4.0).unwrap();
        for gelu in Gelu::ALL {
            let errors = relative_errors(gelu, DType::BF16, range).unwrap();
            let [ours, others @ ..] = &errors.presets[..] else { panic!("no presets") };
            assert!(ours.y.iter().all(|&e| e > 0.0 && e <= 2f64.powi(-8)), "{ours:?}");
            assert_eq!(others.len(), 7);
            for other in others {
                assert!(other.y.iter().zip(&ours.y).all(|(other, ours)| other >= ours));
            }
            // candle computes the exact form of bf16 in f64, the tanh form in bf16.
            let worst = |c: &Curve| c.y.iter().copied().fold(0.0, f64::max);
            let candle = worst(&others[0]) / worst(ours);
            assert!(if gelu == Gelu::Exact { candle == 1.0 } else { candle > 100.0 }, "{candle}");
        }
        assert!(relative_errors(Gelu::Exact, DType::F32, range).is_err());
    }
}
