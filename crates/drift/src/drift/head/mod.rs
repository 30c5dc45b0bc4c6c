//! The head's pass: logits of all sides, a piece of the vocabulary at a time, summed up as they
//! come, so that those of all words are never held.

mod batch;
mod logits;
mod loss;
mod packed;
mod position;
mod softmax;
mod tensors;

pub(crate) use logits::compare_logits;
pub(super) use loss::loss;

use super::logits::LogitSums;
use crate::error::Result;
use batch::Batch;
use candle_core::Tensor;
use gemma_mlp::model::Head;
use position::{Position, sums};

/// Positions that are compared at a time, for all sides together: few enough for the logits of many
/// words to stay in a cache, many enough for reading the head's weight not to count.
const POSITIONS: usize = 1024;

/// Compares pairs of sides on their normed hidden states, `[n, hidden]` each, through their heads.
/// `labels` are the right tokens of all positions; a side may have fewer, namely the first ones.
/// `progress` is called with the fraction that is done.
pub(super) fn compare(
    sides: &[(&Head, Tensor)],
    pairs: &[(usize, usize)],
    labels: &[Option<u32>],
    mut progress: impl FnMut(f64),
) -> Result<Vec<LogitSums>> {
    let mut sums = vec![LogitSums::default(); pairs.len()];
    let step = (POSITIONS / sides.len().max(1)).max(1);
    for (i, labels_of_some) in labels.chunks(step).enumerate() {
        let some = |(head, hidden): &(_, Tensor)| -> Result<_> {
            let count = hidden.dim(0)?;
            let (start, end) =
                ((i * step).min(count), (i * step + labels_of_some.len()).min(count));
            Ok((*head, hidden.narrow(0, start, end - start)?))
        };
        let sides = sides.iter().map(some).collect::<Result<Vec<_>>>()?;
        let done = (i * step) as f64;
        let more = compare_some(&sides, pairs, labels_of_some, |fraction| {
            progress((done + fraction * labels_of_some.len() as f64) / labels.len() as f64);
        })?;
        sums.iter_mut().zip(&more).for_each(|(sums, more)| sums.merge(more));
    }
    Ok(sums)
}

/// Compares pairs of sides at few positions.
fn compare_some(
    sides: &[(&Head, Tensor)],
    pairs: &[(usize, usize)],
    labels: &[Option<u32>],
    mut progress: impl FnMut(f64),
) -> Result<Vec<LogitSums>> {
    let blank: Vec<Position> =
        labels.iter().map(|&label| Position::new(sides.len(), pairs.len(), label)).collect();
    let batches = Batch::all(sides)?;
    let positions = match packed::positions(&batches, pairs, &blank)? {
        Some(positions) => positions,
        None => tensors::positions(&batches, pairs, blank, &mut progress)?,
    };
    progress(1.0);
    let count = |side: usize| sides[side].1.dims()[0];
    let common = |(a, b): (usize, usize)| count(a).min(count(b));
    let sums = pairs.iter().enumerate().map(|(i, &pair)| sums(&positions[..common(pair)], pair, i));
    Ok(sums.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::LogitMetrics;
    use candle_core::{DType, Device};
    use gemma_mlp::linear::Weight;

    /// KL, likelihoods and tops by the definition, in f64.
    fn by_definition(a: &[f64], b: &[f64], label: usize) -> (f64, f64) {
        let log_softmax = |z: &[f64]| {
            let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let log_sum = z.iter().map(|z| (z - max).exp()).sum::<f64>().ln() + max;
            z.iter().map(|z| z - log_sum).collect::<Vec<_>>()
        };
        let (a, b) = (log_softmax(a), log_softmax(b));
        (a.iter().zip(&b).map(|(a, b)| a.exp() * (a - b)).sum(), -b[label])
    }

    #[test]
    fn pieces_add_up_to_the_definition() -> Result<()> {
        let (n, hidden, vocab) = (5, 16, 20_000);
        let weight = Tensor::randn(0f64, 0.5, (vocab, hidden), &Device::Cpu)?;
        let weight = Weight::Tensor(weight);
        let heads = [Head::new(weight.clone(), None)?, Head::new(weight, Some(8.0))?];
        let a = Tensor::randn(0f64, 1., (n, hidden), &Device::Cpu)?;
        let b = (&a + Tensor::randn(0f64, 0.05, (n, hidden), &Device::Cpu)?)?;
        let labels = [Some(3), Some(19_999), None, Some(8_192), Some(8_191)];
        for head in &heads {
            let sides = [(head, a.clone()), (head, b.clone())];
            let sums = compare(&sides, &[(0, 1), (0, 0)], &labels, |_| ())?;
            let logits = |t: &Tensor| head.forward(t)?.to_dtype(DType::F64)?.to_vec2::<f64>();
            let (za, zb) = (logits(&a)?, logits(&b)?);
            let mut right = 0;
            for i in 0..n {
                let label = labels[i].unwrap_or(0) as usize;
                let (kl, nll) = by_definition(&za[i], &zb[i], label);
                assert!((sums[0].kl_nats[i] - kl).abs() < 1e-13, "{kl}");
                if labels[i].is_some() {
                    assert!((sums[0].nll_b[right] - nll).abs() < 1e-12);
                    right += 1;
                }
                let best = |z: &[f64]| (0..vocab).max_by(|&i, &j| z[i].total_cmp(&z[j]));
                assert_eq!(sums[0].top1[i], Some(best(&za[i]) == best(&zb[i])));
            }
            assert_eq!(sums[0].nll_a.len(), 4);
            let whole = LogitMetrics::of(&head.forward(&a)?, &head.forward(&b)?, &labels)?;
            let (piecewise, close) = (sums[0].metrics(), |a: f64, b: f64| (a - b).abs() < 1e-12);
            assert!(close(whole.kl_mean_nats, piecewise.kl_mean_nats), "{whole:?}");
            assert!(close(whole.ppl_b / piecewise.ppl_b, 1.0), "{whole:?}");
            let same = sums[1].metrics();
            assert_eq!((same.kl_max_nats, same.max_abs, same.rms_dp), (0.0, 0.0, 0.0));
            assert_eq!((same.top1_agreement, same.top5_agreement), (1.0, 1.0));
        }
        Ok(())
    }

    /// Whether threads share the vocabulary or read tensors, for sides of two dtypes on one packed
    /// weight, of which one has fewer positions.
    #[test]
    fn packed_heads_give_what_tensors_give() -> Result<()> {
        let (n, hidden, vocab) = (7, 40, 20_003);
        let weight = Tensor::randn(0f32, 0.5, (vocab, hidden), &Device::Cpu)?;
        let weight = Weight::Tensor(weight.to_dtype(DType::BF16)?).packed()?;
        let head = Head::new(weight, None)?;
        let a = Tensor::randn(0f32, 1., (n, hidden), &Device::Cpu)?;
        let b = (&a + Tensor::randn(0f32, 0.05, (n, hidden), &Device::Cpu)?)?;
        let c = a.narrow(0, 0, 4)?.to_dtype(DType::BF16)?;
        let sides = [(&head, a), (&head, c), (&head, b)];
        let pairs = [(0, 2), (1, 0), (0, 0)];
        let labels = [Some(0), Some(20_002), None, Some(255), Some(256), Some(512), Some(7)];
        let blank: Vec<Position> = labels.iter().map(|&label| Position::new(3, 3, label)).collect();
        let batches = Batch::all(&sides)?;
        let by_parts = packed::positions(&batches, &pairs, &blank)?.expect("the head is packed");
        let by_tensors = tensors::positions(&batches, &pairs, blank, &mut |_| ())?;
        for (i, (&pair, count)) in pairs.iter().zip([n, 4, n]).enumerate() {
            let [one, other] =
                [&by_parts, &by_tensors].map(|positions| sums(&positions[..count], pair, i));
            assert_eq!((&one.tops, &one.top5), (&other.tops, &other.top5));
            assert_eq!(one.metrics().max_abs, other.metrics().max_abs);
            let close = |a: &[f64], b: &[f64]| {
                assert_eq!(a.len(), b.len());
                a.iter().zip(b).for_each(|(a, b)| assert!((a - b).abs() < 1e-12, "{a} {b}"));
            };
            close(&one.kl_nats, &other.kl_nats);
            close(&one.nll_a, &other.nll_a);
            close(&one.nll_b, &other.nll_b);
        }
        assert_eq!(sums(&by_parts, (0, 0), 2).metrics().kl_max_nats, 0.0);
        Ok(())
    }
}
