//! Scores to weights: scaling, soft-capping, masking and softmax.

use super::visible::Visible;
use crate::exp::{exp, vectorized};
use crate::operands::slice;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

/// What is done to scores before the softmax.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scores {
    /// The factor on them.
    pub scaling: f64,
    /// `cap·tanh(scores/cap)`.
    pub softcap: Option<f64>,
}

/// The softmax over the visible keys: `[batch, kv_heads, groups · queries, keys]`, in f32 or f64,
/// to the same shape, with 0 at keys that are not visible.
pub(super) fn softmax(scores: &Tensor, how: Scores, visible: &Visible) -> Result<Tensor> {
    match scores.device() {
        Device::Cpu if !scores.track_op() => {
            scores.contiguous()?.apply_op1_no_bwd(&Fused { how, visible: visible.clone() })
        }
        _ => composed(scores, how, visible),
    }
}

/// Out of candle's operations, which it differentiates.
fn composed(scores: &Tensor, how: Scores, visible: &Visible) -> Result<Tensor> {
    let mut scaled = (scores * how.scaling)?;
    if let Some(cap) = how.softcap {
        scaled = ((scaled / cap)?.tanh()? * cap)?;
    }
    let (batch, kv_heads, rows, keys) = scores.dims4()?;
    let queries = visible.queries.len();
    let mask = visible.mask(scores.device())?.to_dtype(scores.dtype())?; // [queries, keys]
    let grouped = scaled.reshape((batch, kv_heads * (rows / queries), queries, keys))?;
    let weights = candle_nn::ops::softmax(&grouped.broadcast_add(&mask)?, 3)?;
    weights.reshape((batch, kv_heads, rows, keys))
}

/// The same in one pass on the CPU.
struct Fused {
    how: Scores,
    visible: Visible,
}

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "attention-softmax"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let weights = match scores {
            CpuStorage::F32(_) => self.rows(slice::<f32>(scores, layout)?, f64::from, |x| x as f32),
            CpuStorage::F64(_) => self.rows(slice::<f64>(scores, layout)?, |x| x, |x| x),
            _ => candle_core::bail!("attention is computed in f32 or f64"),
        };
        Ok((weights, layout.shape().clone()))
    }
}

/// Exponents that are computed at a time, in the first-level cache.
const BLOCK: usize = 512;

impl Fused {
    fn rows<T: WithDType>(
        &self,
        scores: &[T],
        widen: impl Fn(T) -> f64 + Sync,
        round: impl Fn(f64) -> T + Sync,
    ) -> CpuStorage {
        let keys = self.visible.keys.len();
        let queries = self.visible.queries.len();
        let mut weights = vec![T::zero(); scores.len()];
        let rows = weights.par_chunks_mut(keys).zip(scores.par_chunks(keys)).enumerate();
        rows.for_each(|(row, (weights, scores))| {
            let visible = self.visible.range(self.visible.queries.start + row % queries);
            let (weights, scores) = (&mut weights[visible.clone()], &scores[visible]);
            self.row(scores, weights, &widen, &round);
        });
        T::to_cpu_storage_owned(weights)
    }

    fn row<T: WithDType>(
        &self,
        scores: &[T],
        weights: &mut [T],
        widen: &impl Fn(T) -> f64,
        round: &impl Fn(f64) -> T,
    ) {
        let Scores { scaling, softcap } = self.how;
        let cap = |x: f64| softcap.map_or(x, |cap| libm::tanh(x / cap) * cap);
        let score = |x: &T| cap(widen(*x) * scaling);
        // NaN passes through the exponentials; the maximum may ignore it.
        let max = scores.iter().map(score).fold(f64::NEG_INFINITY, f64::max);
        let mut sum = 0.0;
        let mut exps = [0.0; BLOCK];
        for (scores, weights) in scores.chunks(BLOCK).zip(weights.chunks_mut(BLOCK)) {
            let exps = &mut exps[..scores.len()];
            exps.iter_mut().zip(scores).for_each(|(e, x)| *e = score(x) - max);
            vectorized(
                #[inline(always)]
                || {
                    for e in exps.iter_mut() {
                        *e = exp(*e);
                    }
                },
            );
            sum += exps.iter().sum::<f64>();
            weights.iter_mut().zip(&*exps).for_each(|(w, &e)| *w = round(e));
        }
        let inverse = 1.0 / sum;
        weights.iter_mut().for_each(|w| *w = round(widen(*w) * inverse));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    #[test]
    fn one_pass_agrees_with_the_composed_form() -> Result<()> {
        let visible = Visible { queries: 7..10, keys: 2..10, window: 4, causal: true };
        for softcap in [None, Some(5.0)] {
            let how = Scores { scaling: 0.25, softcap };
            let scores = Tensor::randn(0f32, 9., (2, 2, 6, 8), &Device::Cpu)?;
            let (fused, composed) =
                (softmax(&scores, how, &visible)?, composed(&scores, how, &visible)?);
            let difference = (&fused - composed)?.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(difference < 1e-6, "{difference}");
            let wide = softmax(&scores.to_dtype(DType::F64)?, how, &visible)?;
            let difference = (wide.to_dtype(DType::F32)? - fused)?.abs()?.max_all()?;
            assert!(difference.to_scalar::<f32>()? < 1e-6);
        }
        Ok(())
    }
}
