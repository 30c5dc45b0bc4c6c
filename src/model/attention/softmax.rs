//! Scores to weights: scaling, soft-capping and softmax.

use super::rounding::{AttentionRounding, round};
use super::visible::Visible;
use crate::kernels::exp::{exp, vectorized};
use crate::model::norm::rounded_to;
use candle_core::{DType, Result, Tensor};

/// What is done to scores before the softmax.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scores {
    /// The factor on them, not below 0.
    pub scaling: f64,
    /// `cap·tanh(scores/cap)`.
    pub softcap: Option<f64>,
}

/// Where scores and weights are rounded.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SoftmaxRounding {
    /// By attention that rounds all along.
    pub attention: Option<AttentionRounding>,
    /// In the softmax alone: what it gets and what it returns, to a dtype.
    pub own: Option<DType>,
}

impl SoftmaxRounding {
    /// The scores after an operation.
    fn scores(self, x: Tensor) -> Result<Tensor> {
        self.attention.map_or(Ok(x.clone()), |rounding| rounding.round_scores(x))
    }

    /// What the softmax gets, or returns.
    fn own(self, x: Tensor) -> Result<Tensor> {
        self.own.map_or(Ok(x.clone()), |dtype| rounded_to(&x, dtype))
    }
}

/// The softmax over the visible keys: `[batch, kv_heads, groups · queries, keys]`, in f32 or f64,
/// to the same shape, with 0 at keys that are not visible.
pub(super) fn masked_softmax(
    scores: &Tensor,
    how: Scores,
    rounding: SoftmaxRounding,
    visible: &Visible,
) -> Result<Tensor> {
    let scored = |x| rounding.scores(x);
    let mut scaled = scored((scored(scores.clone())? * how.scaling)?)?;
    if let Some(cap) = how.softcap {
        scaled = scored((scored(scored((scaled / cap)?)?.tanh()?)? * cap)?)?;
    }
    let (batch, kv_heads, rows, keys) = scores.dims4()?;
    let queries = visible.queries.len();
    let mask = visible.mask(scores.device())?.to_dtype(scores.dtype())?; // [queries, keys]
    let grouped =
        rounding.own(scaled)?.reshape((batch, kv_heads * (rows / queries), queries, keys))?;
    let weights = candle_nn::ops::softmax(&grouped.broadcast_add(&mask)?, 3)?;
    let weights = round(rounding.attention, rounding.own(weights)?)?;
    weights.reshape((batch, kv_heads, rows, keys))
}

/// The exponentials of a row of scores, in parts, in their place; returns their sum, by which the
/// row is divided to make it a softmax. Computed in f64. NaN among the scores makes the sum NaN.
pub(super) fn softmax(how: Scores, parts: &mut [&mut [f32]]) -> f64 {
    /// Numbers that are summed side by side.
    const LANES: usize = 16;
    vectorized(
        #[inline(always)]
        || {
            let mut highest = [f32::NEG_INFINITY; LANES];
            for part in parts.iter() {
                let (chunks, rest) = part.as_chunks::<LANES>();
                for chunk in chunks {
                    for (highest, &x) in highest.iter_mut().zip(chunk) {
                        *highest = if x > *highest { x } else { *highest };
                    }
                }
                for &x in rest {
                    highest[0] = highest[0].max(x);
                }
            }
            // Scaling and soft-cap keep the order of scores.
            let highest = highest.into_iter().fold(f32::NEG_INFINITY, f32::max);
            let highest = how.score(highest);
            let mut sums = [0f64; LANES];
            for part in parts {
                let (chunks, rest) = part.as_chunks_mut::<LANES>();
                for chunk in chunks {
                    for (sum, x) in sums.iter_mut().zip(chunk) {
                        let weight = exp(how.score(*x) - highest);
                        *sum += weight;
                        *x = weight as f32;
                    }
                }
                for (sum, x) in sums.iter_mut().zip(rest) {
                    let weight = exp(how.score(*x) - highest);
                    *sum += weight;
                    *x = weight as f32;
                }
            }
            sums.into_iter().sum()
        },
    )
}

impl Scores {
    /// A score out of the product of a query and a key.
    #[inline(always)]
    fn score(self, x: f32) -> f64 {
        let x = f64::from(x) * self.scaling;
        match self.softcap {
            // tanh x = 1 - 2 / (e^2x + 1), where |x| below 1e-16 is lost, which a score may.
            Some(cap) => cap * (1.0 - 2.0 / (exp(below(2.0 * x / cap)) + 1.0)),
            None => x,
        }
    }
}

/// No more than `exp` takes; NaN stays NaN.
#[inline(always)]
fn below(x: f64) -> f64 {
    if x > 709.0 { 709.0 } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_row_agrees_with_candles_operations() -> Result<()> {
        let visible = Visible { queries: 70..71, keys: 2..71, window: 64, causal: true, prefix: 0 };
        for softcap in [None, Some(5.0)] {
            let how = Scores { scaling: 0.25, softcap };
            let scores = Tensor::randn(0f32, 9., (1, 1, 1, 69), &Device::Cpu)?;
            let theirs = masked_softmax(&scores, how, SoftmaxRounding::default(), &visible)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            let mut ours = scores.flatten_all()?.to_vec1::<f32>()?;
            let (hidden, seen) = ours.split_at_mut(visible.range(70).start);
            hidden.fill(0.0);
            let (first, second) = seen.split_at_mut(37);
            let sum = softmax(how, &mut [first, second]);
            for (ours, theirs) in ours.into_iter().zip(theirs) {
                assert!((f64::from(ours) / sum - f64::from(theirs)).abs() < 1e-6);
            }
        }
        Ok(())
    }

    #[test]
    fn extremes() {
        for softcap in [None, Some(50.0)] {
            let how = Scores { scaling: 1.0, softcap };
            let mut row = [1e30, 3.0, -1e30];
            assert_eq!(softmax(how, &mut [&mut row]), 1.0 + f64::from(row[1]));
            assert_eq!((row[0], row[2]), (1.0, if softcap.is_some() { row[2] } else { 0.0 }));
            assert!(softmax(how, &mut [&mut [0.0, f32::NAN, 1.0]]).is_nan());
        }
    }
}
