//! The head's pass: logits of all sides, a piece of the vocabulary at a time, summed up as they
//! come, so that those of all words are never held.

mod batch;
mod logits;
mod loss;
mod packed;
mod pieces;
mod position;
mod softmax;
mod tensors;

pub(crate) use logits::compare_logits;
pub(super) use loss::loss;

use super::logits::LogitSums;
use crate::error::Result;
use batch::{Batch, POSITIONS};
use candle_core::Tensor;
use gemma_mlp::model::Head;
use position::Position;

/// A text behind the last layer.
pub(super) struct Text<'a> {
    /// Each side's head and normed hidden states, `[n, hidden]`, in one dtype and through one head in all texts. A side
    /// may have fewer positions than others, namely the first ones.
    pub(super) sides: Vec<(&'a Head, Tensor)>,
    /// The right tokens of all positions.
    pub(super) labels: Vec<Option<u32>>,
}

/// Compares pairs of sides on texts: their sums, text by text. `progress` is called with the fraction that is done.
///
/// A head that is in a file is read once for all texts.
pub(super) fn compare(
    texts: &[Text],
    pairs: &[(usize, usize)],
    mut progress: impl FnMut(f64),
) -> Result<Vec<Vec<LogitSums>>> {
    let sides = texts.first().map_or(&[][..], |text| &text.sides);
    let step = (POSITIONS / sides.len().max(1)).max(1);
    let groups = batch::groups(sides);
    let heads: Vec<&Head> = groups.iter().map(|group| sides[group[0]].0).collect();
    let all: usize = texts.iter().map(|text| text.labels.len()).sum();
    let mut chunks = vec![];
    for (text, Text { sides, labels }) in texts.iter().enumerate() {
        for (i, labels) in labels.chunks(step).enumerate() {
            let some = |(_, hidden): &(&Head, Tensor)| -> Result<Tensor> {
                let count = hidden.dim(0)?;
                let (start, end) = ((i * step).min(count), (i * step + labels.len()).min(count));
                Ok(hidden.narrow(0, start, end - start)?)
            };
            let hidden = sides.iter().map(some).collect::<Result<Vec<_>>>()?;
            let batches = groups.iter().map(|group| Batch::of(&hidden, group));
            let batches = batches.collect::<Result<Vec<_>>>()?;
            let position = |&label| Position::new(sides.len(), pairs.len(), label);
            let blank: Vec<_> = labels.iter().map(position).collect();
            chunks.push(Chunk { text, batches, hidden, positions: blank.clone(), blank });
        }
    }
    let vocab = heads.first().map_or(0, |head| head.vocab_size());
    let is_packed = packed::takes(sides);
    let part = if is_packed { packed::part(&heads) } else { tensors::part(sides.len()) };
    pieces::each(&heads, part, |piece| {
        let words = piece.words();
        let mut done = 0;
        for Chunk { batches, positions, blank, .. } in &mut chunks {
            let count = blank.len();
            let mut report = |fraction: f64| {
                let of_piece = (done as f64 + fraction * count as f64) / all as f64;
                progress((words.start as f64 + of_piece * words.len() as f64) / vocab as f64);
            };
            match is_packed {
                true => packed::add(batches, piece, pairs, blank, positions)?,
                false => tensors::add(batches, piece, pairs, positions, &mut report)?,
            }
            report(1.0);
            done += count;
        }
        Ok(())
    })?;
    let mut sums = vec![vec![LogitSums::default(); pairs.len()]; texts.len()];
    for Chunk { text, hidden, positions, .. } in &chunks {
        for (i, (sums, &(a, b))) in sums[*text].iter_mut().zip(pairs).enumerate() {
            let common = hidden[a].dim(0)?.min(hidden[b].dim(0)?);
            sums.merge(&position::sums(&positions[..common], (a, b), i));
        }
    }
    Ok(sums)
}

/// Few positions of a text.
struct Chunk {
    text: usize,
    batches: Vec<Batch>,
    /// Each side's, `[count, hidden]`.
    hidden: Vec<Tensor>,
    /// What is known of them before the first word.
    blank: Vec<Position>,
    /// What is known so far.
    positions: Vec<Position>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::LogitMetrics;
    use candle_core::{DType, Device};
    use gemma_mlp::linear::Weight;
    use pieces::Piece;

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
            let text = Text { sides: sides.to_vec(), labels: labels.to_vec() };
            let sums = compare(&[text], &[(0, 1), (0, 0)], |_| ())?.swap_remove(0);
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
        let hidden = sides.each_ref().map(|(_, hidden)| hidden.clone());
        let groups = batch::groups(&sides);
        let batches = groups.iter().map(|group| Batch::of(&hidden, group));
        let batches = batches.collect::<Result<Vec<_>>>()?;
        let heads = vec![head.clone(); batches.len()];
        let (mut by_parts, mut by_tensors) = (blank.clone(), blank.clone());
        let part = packed::part(&[&head]);
        let whole = |part| Piece { heads: &heads, first: 0, part };
        packed::add(&batches, whole(part), &pairs, &blank, &mut by_parts)?;
        tensors::add(&batches, whole(tensors::part(3)), &pairs, &mut by_tensors, &mut |_| ())?;
        // Piece by piece, as a head in a file comes.
        let mut by_pieces = blank.clone();
        for first in (0..vocab).step_by(3 * part) {
            let weight = head.weight().narrow(first, (3 * part).min(vocab - first))?;
            let heads = vec![head.with_weight(weight)?; batches.len()];
            let piece = Piece { heads: &heads, first, part };
            packed::add(&batches, piece, &pairs, &blank, &mut by_pieces)?;
        }
        for (i, (&pair, count)) in pairs.iter().zip([n, 4, n]).enumerate() {
            let [whole, pieces] = [&by_parts, &by_pieces]
                .map(|positions| position::sums(&positions[..count], pair, i));
            assert_eq!((whole.kl_nats, whole.tops), (pieces.kl_nats, pieces.tops));
            let [one, other] = [&by_parts, &by_tensors]
                .map(|positions| position::sums(&positions[..count], pair, i));
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
        assert_eq!(position::sums(&by_parts, (0, 0), 2).metrics().kl_max_nats, 0.0);
        Ok(())
    }
}
