//! The head's pass: logits of all sides, a piece of the vocabulary at a time, summed up as they
//! come. Full logits are never held.

use super::logits::LogitSums;
use super::metrics::Accumulator;
use super::values::{Values, with_values};
use crate::error::Result;
use crate::exp::{exp, vectorized};
use crate::model::Head;
use candle_core::Tensor;
use rayon::prelude::*;

/// Bytes of logits, as f32 or narrower, that are held at a time for all sides: few enough to stay
/// in a large cache, and to be memory that the allocator keeps from one piece to the next.
const WORKSPACE: usize = 8 << 20;

/// Positions that are compared at a time, for all sides: few enough for a good part of the
/// vocabulary to fit the workspace, many enough for reading the head's weight not to count.
const POSITIONS: usize = 1024;

/// The likeliest tokens that are kept.
const TOP: usize = 5;

/// Compares pairs of sides on their normed hidden states, `[n, hidden]` each, through their heads.
/// `labels` are the right tokens of all positions; a side may have fewer, namely the first ones. `progress` is called with the fraction that is done.
///
/// KL divergences are resolved to 1e-14 nats: logits are widened to f64, and so is every sum over
/// the vocabulary.
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

/// The same for few positions.
fn compare_some(
    sides: &[(&Head, Tensor)],
    pairs: &[(usize, usize)],
    labels: &[Option<u32>],
    mut progress: impl FnMut(f64),
) -> Result<Vec<LogitSums>> {
    let vocab = sides.first().map_or(0, |(head, _)| head.vocab_size());
    let tile = tile(sides.len(), labels.len(), vocab);
    let mut rows: Vec<Row> =
        labels.iter().map(|&label| Row::new(sides.len(), pairs.len(), label)).collect();
    let batches = Batches::new(sides)?;
    let counts: Vec<usize> = sides.iter().map(|(_, hidden)| hidden.dims()[0]).collect();
    for start in (0..vocab).step_by(tile) {
        let len = tile.min(vocab - start);
        let logits = batches.logits(sides, start, len)?;
        read_all(&logits, vec![], &mut |values: &[Values]| {
            rows.par_iter_mut().enumerate().for_each_init(
                || Buffers::new(sides.len(), len),
                |buffers, (i, row)| {
                    buffers.read(values, i, len, &counts);
                    vectorized(
                        #[inline(always)]
                        || row.add(buffers, pairs, start as u32),
                    );
                },
            );
        })?;
        progress((start + len) as f64 / vocab as f64);
    }
    let common = |(a, b): (usize, usize)| counts[a].min(counts[b]);
    let sums = pairs.iter().enumerate().map(|(i, &pair)| sums(&rows[..common(pair)], pair, i));
    Ok(sums.collect())
}

/// Words at a time: as many as fit the workspace, whatever the number of threads.
fn tile(sides: usize, positions: usize, vocab: usize) -> usize {
    let words = WORKSPACE / 4 / (sides * positions).max(1);
    (words / 64 * 64).clamp(256, 8192).min(vocab.max(1))
}

/// Sides whose heads are one tensor, and whose hidden states have one dtype: one product serves
/// them all.
struct Batches(Vec<(Vec<usize>, Tensor)>);

impl Batches {
    fn new(sides: &[(&Head, Tensor)]) -> Result<Self> {
        let mut groups: Vec<Vec<usize>> = vec![];
        for (i, (head, hidden)) in sides.iter().enumerate() {
            let alike = |group: &&mut Vec<usize>| {
                let (other, other_hidden) = &sides[group[0]];
                other.weight().is(head.weight())
                    && other.softcap() == head.softcap()
                    && other_hidden.dtype() == hidden.dtype()
            };
            match groups.iter_mut().find(alike) {
                Some(group) => group.push(i),
                None => groups.push(vec![i]),
            }
        }
        let stack = |group: Vec<usize>| {
            let hidden: Vec<_> = group.iter().map(|&i| &sides[i].1).collect();
            Ok((group, Tensor::cat(&hidden, 0)?))
        };
        Ok(Self(groups.into_iter().map(stack).collect::<Result<_>>()?))
    }

    /// The logits of some words, `[n, len]` for each side.
    fn logits(&self, sides: &[(&Head, Tensor)], start: usize, len: usize) -> Result<Vec<Tensor>> {
        let mut logits: Vec<Option<Tensor>> = vec![None; sides.len()];
        for (group, hidden) in &self.0 {
            let all = sides[group[0]].0.rows(hidden, start, len)?; // [rows of the group, len]
            let mut at = 0;
            for &side in group {
                let rows = sides[side].1.dim(0)?;
                logits[side] = Some(all.narrow(0, at, rows)?);
                at += rows;
            }
        }
        Ok(logits.into_iter().flatten().collect())
    }
}

/// Calls `read` with the elements of all tensors.
fn read_all<'a>(
    tensors: &[Tensor],
    read_before: Vec<Values<'a>>,
    read: &mut dyn FnMut(&[Values]),
) -> Result<()> {
    match tensors {
        [] => read(&read_before),
        [first, rest @ ..] => with_values(first, |values| {
            let values = read_before.iter().copied().chain([values]).collect();
            read_all(rest, values, read).map_err(candle_core::Error::wrap)
        })?,
    }
    Ok(())
}

/// One position's logits of a tile, for each side, and their exponentials.
struct Buffers {
    logits: Vec<Vec<f64>>,
    exps: Vec<Vec<f64>>,
    /// Which sides have the position.
    present: Vec<bool>,
}

impl Buffers {
    fn new(sides: usize, len: usize) -> Self {
        let buffers = || vec![vec![0.0; len]; sides];
        Self { logits: buffers(), exps: buffers(), present: vec![false; sides] }
    }

    fn read(&mut self, values: &[Values], row: usize, len: usize, counts: &[usize]) {
        for (side, (buffer, values)) in self.logits.iter_mut().zip(values).enumerate() {
            self.present[side] = row < counts[side];
            if !self.present[side] {
                continue;
            }
            vectorized(
                #[inline(always)]
                || values.widen(row * len..(row + 1) * len, buffer),
            );
        }
    }
}

/// What is known of a position after some tiles.
struct Row {
    label: Option<u32>,
    sides: Vec<RowSide>,
    pairs: Vec<RowPair>,
}

/// One side's softmax so far, relative to the largest logit.
#[derive(Clone, Copy)]
struct RowSide {
    max: f64,
    /// Σ exp(z − max).
    sum: f64,
    /// What sums of earlier tiles must be multiplied by.
    rescale: f64,
    label: f64,
    /// The largest logits with their ids, largest first; of equals the lower id comes first.
    top: [(f64, u32); TOP],
}

/// What two sides make up together.
#[derive(Clone, Copy, Default)]
struct RowPair {
    logits: Accumulator,
    /// Σ exp(a − max a)·(a − b).
    cross: f64,
}

impl Row {
    fn new(sides: usize, pairs: usize, label: Option<u32>) -> Self {
        let side = RowSide {
            max: f64::NEG_INFINITY,
            sum: 0.0,
            rescale: 1.0,
            label: f64::NAN,
            top: [(f64::NEG_INFINITY, u32::MAX); TOP],
        };
        Self { label, sides: vec![side; sides], pairs: vec![RowPair::default(); pairs] }
    }

    #[inline(always)]
    fn add(&mut self, buffers: &mut Buffers, pairs: &[(usize, usize)], start: u32) {
        let Buffers { logits, exps, present } = buffers;
        for (i, side) in self.sides.iter_mut().enumerate().filter(|(i, _)| present[*i]) {
            if let Some(at) = self.label.and_then(|label| label.checked_sub(start)) {
                side.label = logits[i].get(at as usize).copied().unwrap_or(side.label);
            }
            side.add(&logits[i], &mut exps[i], start);
        }
        for (pair, &(a, b)) in self.pairs.iter_mut().zip(pairs) {
            if !(present[a] && present[b]) {
                continue;
            }
            let cross = cross(&exps[a], &logits[a], &logits[b]);
            pair.cross = pair.cross * self.sides[a].rescale + cross;
            pair.logits.add_slices(&logits[a], &logits[b]);
        }
    }

    /// KL(A‖B) = Σ p_a·(a − b) − (ln Z_a − ln Z_b). Rounding, of the size 1e-16, could make it
    /// negative.
    fn kl(&self, (a, b): (usize, usize), pair: usize) -> f64 {
        let (a, b) = (&self.sides[a], &self.sides[b]);
        let log_ratio = (a.max - b.max) + (a.sum / b.sum).ln();
        let kl = self.pairs[pair].cross / a.sum - log_ratio;
        if kl < 0.0 { 0.0 } else { kl }
    }
}

impl RowSide {
    /// Adds a tile.
    #[inline(always)]
    fn add(&mut self, logits: &[f64], exps: &mut [f64], start: u32) {
        let largest = self.scan(logits, start);
        let max = if largest > self.max { largest } else { self.max };
        self.rescale = if max == self.max { 1.0 } else { exp(self.max - max) };
        for (e, &z) in exps.iter_mut().zip(logits) {
            *e = exp(z - max);
        }
        self.max = max;
        self.sum = self.sum * self.rescale + sum(exps);
    }

    /// Finds the largest logit, and any that belongs to the top.
    #[inline(always)]
    fn scan(&mut self, logits: &[f64], start: u32) -> f64 {
        const BLOCK: usize = 64;
        let mut largest = f64::NEG_INFINITY;
        for (i, block) in logits.chunks(BLOCK).enumerate() {
            let mut maxima = [f64::NEG_INFINITY; 8];
            for (j, &z) in block.iter().enumerate() {
                maxima[j % 8] = if z > maxima[j % 8] { z } else { maxima[j % 8] };
            }
            let max = maxima.into_iter().fold(f64::NEG_INFINITY, f64::max);
            largest = if max > largest { max } else { largest };
            if max > self.top[TOP - 1].0 {
                for (j, &z) in block.iter().enumerate() {
                    self.insert(z, start + (i * BLOCK + j) as u32);
                }
            }
        }
        largest
    }

    #[cold]
    fn insert(&mut self, logit: f64, id: u32) {
        if let Some(at) = self.top.iter().position(|&(top, _)| logit > top) {
            self.top[at..].rotate_right(1);
            self.top[at] = (logit, id);
        }
    }

    fn nll(&self) -> f64 {
        (self.max - self.label) + self.sum.ln()
    }
}

/// A sum in eight parts, which a vector register holds.
#[inline(always)]
fn sum(values: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (whole, rest) = values.as_chunks::<8>();
    for values in whole {
        for i in 0..8 {
            sums[i] += values[i];
        }
    }
    sums.iter().sum::<f64>() + rest.iter().sum::<f64>()
}

/// Σ e·(a − b).
#[inline(always)]
fn cross(e: &[f64], a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let ((e, e_rest), (a, a_rest), (b, b_rest)) =
        (e.as_chunks::<8>(), a.as_chunks::<8>(), b.as_chunks::<8>());
    for ((e, a), b) in e.iter().zip(a).zip(b) {
        for i in 0..8 {
            sums[i] += e[i] * (a[i] - b[i]);
        }
    }
    for ((e, a), b) in e_rest.iter().zip(a_rest).zip(b_rest) {
        sums[0] += e * (a - b);
    }
    sums.iter().sum()
}

/// The sums of a pair over all positions.
fn sums(rows: &[Row], places: (usize, usize), pair: usize) -> LogitSums {
    let mut sums = LogitSums::default();
    for row in rows {
        let (a, b) = (&row.sides[places.0], &row.sides[places.1]);
        sums.logits.merge(&row.pairs[pair].logits);
        sums.kl_nats.push(row.kl(places, pair));
        sums.top1.push(a.top[0].1 == b.top[0].1);
        sums.tops.push([a.top[0].1, b.top[0].1]);
        sums.margins.push([a, b].map(|side| side.top[0].0 - side.top[1].0));
        let common = |&&(_, id): &&(f64, u32)| b.top.iter().any(|top| top.1 == id);
        sums.top5.push(a.top.iter().filter(common).count() as u8);
        if row.label.is_some() {
            sums.nll_a.push(a.nll());
            sums.nll_b.push(b.nll());
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::Weight;
    use candle_core::{DType, Device};

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
    fn tiles_add_up_to_the_definition() -> Result<()> {
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
                assert_eq!(sums[0].top1[i], best(&za[i]) == best(&zb[i]));
            }
            assert_eq!(sums[0].nll_a.len(), 4);
            let same = sums[1].metrics();
            assert_eq!((same.kl_max_nats, same.max_abs, same.rms_dp), (0.0, 0.0, 0.0));
            assert_eq!((same.top1_agreement, same.top5_agreement), (1.0, 1.0));
        }
        Ok(())
    }
}
