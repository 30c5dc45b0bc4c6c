//! Logits that are there already, of any two models.

use super::batch::{Lane, POSITIONS};
use super::position::{Position, sums};
use super::tensors::positions_of_logits;
use crate::drift::logits::{LogitMetrics, LogitSums};
use crate::error::{Error, Result};
use candle_core::Tensor;

impl LogitMetrics {
    /// How far b's logits are from a's, both `[seq, vocab]` in f64, f32, bf16 or f16, in one dtype
    /// or in two, by the arithmetic of [`drift`](crate::drift::drift): every logit is widened to
    /// f64, and so is every sum.
    ///
    /// `labels` are the right tokens: for each position the one that follows it in the text, `None`
    /// where none does. Perplexities and [`rms_dp`](Self::rms_dp) are of the positions that have
    /// one; without any they are NaN. So is what logits that are not finite take part in;
    /// [`nonfinite_positions`](Self::nonfinite_positions) says where they do, and the agreements leave
    /// such positions out.
    ///
    /// ```
    /// use candle_core::{Device, Tensor};
    /// use gemma_mlp_drift::drift::LogitMetrics;
    ///
    /// let ln = |p: [f64; 2]| Tensor::new(&[p.map(f64::ln)], &Device::Cpu);
    /// let (a, b) = (ln([0.5, 0.5])?, ln([0.25, 0.75])?);
    /// let metrics = LogitMetrics::of(&a, &b, &[Some(0)])?;
    /// assert!((metrics.kl_mean_nats - 0.5 * (4f64 / 3.0).ln()).abs() < 1e-15);
    /// assert!((metrics.ppl_a - 2.0).abs() < 1e-15 && (metrics.ppl_b - 4.0).abs() < 1e-15);
    /// # Ok::<(), gemma_mlp_drift::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::LogitShapes`], [`Error::LabelCount`], [`Error::OutOfVocabulary`] of a label; an
    /// integer dtype, a device that fails.
    pub fn of(a: &Tensor, b: &Tensor, labels: &[Option<u32>]) -> Result<Self> {
        let (positions, vocab_size) = match (a.dims(), b.dims()) {
            (&[positions, vocab_size], of_b) if a.dims() == of_b && vocab_size > 0 => {
                (positions, vocab_size)
            }
            _ => {
                return Err(Error::LogitShapes { a: a.shape().clone(), b: b.shape().clone() });
            }
        };
        if labels.len() != positions {
            return Err(Error::LabelCount { labels: labels.len(), positions });
        }
        if let Some(&id) = labels.iter().flatten().find(|&&id| id as usize >= vocab_size) {
            return Err(Error::OutOfVocabulary { id, vocab_size });
        }
        let mut all = LogitSums::default();
        let mut first = 0;
        for labels in labels.chunks(POSITIONS / 2) {
            let count = labels.len();
            let lanes = [0, 1].map(|side| Lane { side, first: side * count, count });
            let logits = [a.narrow(0, first, count)?, b.narrow(0, first, count)?];
            let blank = labels.iter().map(|&label| Position::new(2, 1, label)).collect();
            let positions = positions_of_logits(&lanes, &logits, &[(0, 1)], blank)?;
            all.merge(&sums(&positions, (0, 1), 0));
            first += count;
        }
        Ok(all.metrics())
    }
}

/// Compares pairs of logits that are there already, `[positions, vocab]` each, of any dtypes; those behind the
/// first may have fewer positions, namely the first ones.
pub(crate) fn compare_logits(
    logits: &[Tensor],
    pairs: &[(usize, usize)],
    labels: &[Option<u32>],
) -> Result<Vec<LogitSums>> {
    let mut lanes = vec![];
    for (side, logits) in logits.iter().enumerate() {
        lanes.push(Lane { side, first: 0, count: logits.dim(0)? });
    }
    let blank = labels.iter().map(|&label| Position::new(logits.len(), pairs.len(), label));
    let positions = positions_of_logits(&lanes, logits, pairs, blank.collect())?;
    let common = |(a, b): (usize, usize)| lanes[a].count.min(lanes[b].count);
    let of = |(i, &pair): (usize, &(usize, usize))| sums(&positions[..common(pair)], pair, i);
    Ok(pairs.iter().enumerate().map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn what_cannot_be_compared() -> Result<()> {
        let logits = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu);
        let two = logits(&[2, 4])?;
        let error = |b: &Tensor, labels: &[_]| LogitMetrics::of(&two, b, labels).unwrap_err();
        for shape in [&[2, 5][..], &[1, 4], &[8], &[1, 2, 4]] {
            assert!(matches!(error(&logits(shape)?, &[None; 2]), Error::LogitShapes { .. }));
        }
        assert!(matches!(error(&two, &[None]), Error::LabelCount { labels: 1, positions: 2 }));
        assert!(matches!(
            error(&two, &[None, Some(4)]),
            Error::OutOfVocabulary { id: 4, vocab_size: 4 }
        ));
        let none = logits(&[0, 4])?;
        assert!(LogitMetrics::of(&none, &none, &[])?.kl_mean_nats.is_nan());
        Ok(())
    }

    /// More positions than are compared at a time, in two dtypes: as each alone.
    #[test]
    fn positions_add_up() -> Result<()> {
        let (seq, vocab) = (POSITIONS / 2 + 3, 70);
        let a = Tensor::randn(0f32, 1., (seq, vocab), &Device::Cpu)?;
        let b = a.to_dtype(DType::BF16)?;
        let labels: Vec<_> = (0..seq as u32).map(|i| (i % 3 > 0).then_some(i % 70)).collect();
        let all = LogitMetrics::of(&a, &b, &labels)?;
        let mut kl = vec![];
        for (i, label) in labels.iter().enumerate() {
            let [a, b] = [a.narrow(0, i, 1)?, b.narrow(0, i, 1)?];
            kl.push(LogitMetrics::of(&a, &b, &[*label])?.kl_mean_nats);
        }
        assert_eq!(all.kl_mean_nats, kl.iter().sum::<f64>() / seq as f64);
        assert_eq!(all.kl_max_nats, kl.iter().copied().fold(0.0, f64::max));
        assert!(all.kl_mean_nats > 0.0 && all.ln_ppl_ratio.is_finite());
        Ok(())
    }
}
