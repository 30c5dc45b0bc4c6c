//! Gemma 3n's activation sparsity: only the largest pre-activations of a token pass the gate.

use super::layers::Result;
use crate::error::InvalidLayer;
use crate::kernels::sparsity::Cutoff;
use candle_core::{DType, Tensor};
use half::{bf16, f16};
use std::f32::consts::SQRT_2;

/// How sparse a block's gate is made before its activation: of each token's pre-activations the
/// `fraction` that is smallest becomes 0, if they are distributed normally (transformers,
/// `Gemma3nTextMLP._gaussian_topk`):
///
/// `gate := relu(gate − (μ + k·σ))`
///
/// with mean μ and standard deviation σ over the last dimension and `k = Φ⁻¹(fraction)`, the
/// [`multiplier`](Self::multiplier), rounded to the gate's dtype, as transformers rounds it. Between
/// that and the result nothing is rounded on the CPU; on other devices it is computed in f32, and in
/// f64 for f64. transformers rounds μ, σ and the cutoff to the gate's dtype as well.
///
/// Where a token has NaN or an infinity in its gate, all of its gate becomes NaN, as in PyTorch. A
/// constant gate becomes 0. On the CPU σ does not overflow, however large the numbers.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use gemma_mlp::mlp::Sparsity;
///
/// let sparsity = Sparsity::new(0.95)?;
/// assert_eq!(sparsity.multiplier(), 1.644_853_6);
/// let gate = Tensor::randn(0f32, 1., (3, 1000), &Device::Cpu)?;
/// let sparse = sparsity.apply(&gate)?; // [3, 1000], of which about 150 are not 0
/// assert_eq!(sparse.dims(), gate.dims());
/// # Ok::<(), candle_core::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sparsity {
    fraction: f64,
    multiplier: f32,
    deviation: Deviation,
    /// What every operation is rounded to.
    rounding: Option<DType>,
}

/// Which standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Deviation {
    /// Of n numbers, the sum of squares divided by n: what Gemma 3n was trained with.
    #[default]
    Population,
    /// Divided by n − 1, PyTorch's default and what llama.cpp computes. Of a single number it is NaN.
    Sample,
}

impl Sparsity {
    /// The sparsity that makes a fraction of the gate 0, with the population's standard deviation.
    ///
    /// # Errors
    /// A fraction that is not between 0 and 1, both excluded, in f32. No sparsity at all, which configs write as 0, is
    /// `None` where a block takes one.
    pub fn new(fraction: f64) -> Result<Self, InvalidLayer> {
        let multiplier = normal_quantile(fraction as f32);
        match multiplier.is_finite() {
            true => {
                Ok(Self { fraction, multiplier, deviation: Deviation::Population, rounding: None })
            }
            false => Err(InvalidLayer::Sparsity { fraction: fraction.to_string() }),
        }
    }

    /// The sparsity by another standard deviation.
    pub fn with_deviation(self, deviation: Deviation) -> Self {
        Self { deviation, ..self }
    }

    /// The sparsity that rounds mean, standard deviation and cutoff to a dtype, as frameworks do that compute in it.
    pub fn with_rounding(self, dtype: DType) -> Self {
        Self { rounding: Some(dtype), ..self }
    }

    /// What part of the gate becomes 0, roughly.
    pub fn fraction(&self) -> f64 {
        self.fraction
    }

    /// How many standard deviations above the mean the cutoff lies: `Φ⁻¹(fraction)`, with the bits
    /// that `torch.distributions.Normal(0, 1).icdf` has in f32.
    pub fn multiplier(&self) -> f32 {
        self.multiplier
    }

    /// Which standard deviation it is.
    pub fn deviation(&self) -> Deviation {
        self.deviation
    }

    /// The gate made sparse: `[..., intermediate]` to the same shape and dtype. The gradient goes
    /// through μ and σ too, as PyTorch's does.
    ///
    /// # Errors
    /// A scalar, an integer dtype.
    pub fn apply(&self, gate: &Tensor) -> Result<Tensor> {
        let multiplier = match gate.dtype() {
            DType::BF16 => bf16::from_f32(self.multiplier).to_f64(),
            DType::F16 => f16::from_f32(self.multiplier).to_f64(),
            _ => f64::from(self.multiplier),
        };
        let ddof = match self.deviation {
            Deviation::Population => 0,
            Deviation::Sample => 1,
        };
        let cutoff = Cutoff { multiplier, ddof };
        match self.rounding {
            Some(dtype) => cutoff.rectify_rounded(gate, dtype),
            None => cutoff.rectify(gate),
        }
    }
}

/// `Φ⁻¹(p)`, the quantile of the standard normal distribution, rounded where PyTorch rounds it:
/// `√2·erfinv(2p − 1)`, with every operation in f32. NaN or infinite where there is none.
fn normal_quantile(p: f32) -> f32 {
    let central = 2.0 * p - 1.0; // erf(x/√2) at the quantile x
    if !(central > -1.0 && central < 1.0) {
        return f32::NAN;
    }
    let p = (1.0 + f64::from(central)) / 2.0;
    // Newton's iteration from the inflection point comes closer from one side only, until no closer
    // number is left.
    let mut x = 0f64;
    loop {
        let below = libm::erfc(-x / std::f64::consts::SQRT_2) / 2.0;
        let density = libm::exp(-x * x / 2.0) / (2.0 * std::f64::consts::PI).sqrt();
        let next = x + (p - below) / density;
        if next.is_nan() || next.abs() <= x.abs() {
            break;
        }
        x = next;
    }
    (x / std::f64::consts::SQRT_2) as f32 * SQRT_2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What PyTorch 2.15 returns.
    #[test]
    fn multipliers_are_pytorch_s() {
        let cases: [(f64, f32); 9] = [
            (0.001, -3.090_236_2),
            (0.05, -1.644_853_6),
            (0.1, -1.281_551_6),
            (0.5, 0.0),
            (0.75, 0.674_489_74),
            (0.9, 1.281_551_5),
            (0.95, 1.644_853_6),
            (0.99, 2.326_348_3),
            (0.999, 3.090_236_2),
        ];
        for (fraction, k) in cases {
            assert_eq!(Sparsity::new(fraction).map(|s| s.multiplier()), Ok(k), "{fraction}");
        }
    }

    #[test]
    fn fractions_that_are_none() {
        for fraction in [0.0, 1.0, -0.5, 1.5, 1e-300, 1.0 - 1e-12, f64::NAN, f64::INFINITY] {
            let error = Sparsity::new(fraction).unwrap_err().to_string();
            assert!(error.contains(&fraction.to_string()), "{error}");
        }
        for fraction in [1e-7, 1.0 - 1e-7] {
            assert!(Sparsity::new(fraction).unwrap().multiplier().abs() > 5.0);
        }
    }
}
