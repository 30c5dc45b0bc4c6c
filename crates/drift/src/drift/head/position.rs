//! A position's logits under some sides, summed up as pieces of the vocabulary come.
//!
//! KL divergences are resolved to 1e-14 nats: logits are widened to f64, and so is every sum over
//! the vocabulary.

use super::softmax::{Softmax, larger, largest_of};
use crate::drift::logits::LogitSums;
use crate::drift::metrics::Accumulator;
use gemma_mlp::internal::{exp, vectorized};

/// The likeliest tokens that are kept.
const TOP: usize = 5;

/// One position's logits of a piece of the vocabulary, for each side, and their exponentials.
pub(super) struct Buffers {
    logits: Vec<Vec<f64>>,
    exps: Vec<Vec<f64>>,
    /// Which sides have the position.
    present: Vec<bool>,
}

impl Buffers {
    pub(super) fn new(sides: usize) -> Self {
        let buffers = || vec![vec![]; sides];
        Self { logits: buffers(), exps: buffers(), present: vec![false; sides] }
    }

    /// Forgets the last piece.
    pub(super) fn clear(&mut self) {
        self.present.fill(false);
    }

    /// Where the logits of a side, which has the position, belong: as many as the piece has words.
    pub(super) fn logits_of(&mut self, side: usize, len: usize) -> &mut [f64] {
        self.present[side] = true;
        self.logits[side].resize(len, 0.0);
        self.exps[side].resize(len, 0.0);
        &mut self.logits[side]
    }
}

/// What is known of a position after some pieces.
#[derive(Clone)]
pub(super) struct Position {
    label: Option<u32>,
    sides: Vec<PositionSide>,
    pairs: Vec<PositionPair>,
}

/// What is known of one side.
#[derive(Clone, Copy)]
struct PositionSide {
    softmax: Softmax,
    /// The largest logits with their ids, largest first; of equals the lower id comes first.
    top: [(f64, u32); TOP],
}

/// What two sides make up together.
#[derive(Clone, Copy, Default)]
struct PositionPair {
    logits: Accumulator,
    /// Σ exp(a − max a)·(a − b).
    cross: f64,
}

impl Position {
    pub(super) fn new(sides: usize, pairs: usize, label: Option<u32>) -> Self {
        let side =
            PositionSide { softmax: Softmax::new(), top: [(f64::NEG_INFINITY, u32::MAX); TOP] };
        Self { label, sides: vec![side; sides], pairs: vec![PositionPair::default(); pairs] }
    }

    /// Adds a piece of the vocabulary, from the word `start` on.
    pub(super) fn add(&mut self, buffers: &mut Buffers, pairs: &[(usize, usize)], start: usize) {
        vectorized(
            #[inline(always)]
            || self.add_vectorized(buffers, pairs, start),
        );
    }

    #[inline(always)]
    fn add_vectorized(&mut self, buffers: &mut Buffers, pairs: &[(usize, usize)], start: usize) {
        let Buffers { logits, exps, present } = buffers;
        for (i, side) in self.sides.iter_mut().enumerate().filter(|(i, _)| present[*i]) {
            side.softmax.find(self.label, &logits[i], start);
            side.add(&logits[i], &mut exps[i], start);
        }
        for (pair, &(a, b)) in self.pairs.iter_mut().zip(pairs) {
            if !(present[a] && present[b]) {
                continue;
            }
            let cross = cross(&exps[a], &logits[a], &logits[b]);
            pair.cross = pair.cross * self.sides[a].softmax.rescale + cross;
            pair.logits.add_slices(&logits[a], &logits[b]);
        }
    }

    /// Adds what is known of this position from later words.
    pub(super) fn merge(&mut self, other: &Self, pairs: &[(usize, usize)]) {
        for ((pair, more), &(a, _)) in self.pairs.iter_mut().zip(&other.pairs).zip(pairs) {
            let [own, of_other] = self.sides[a].softmax.scales(&other.sides[a].softmax);
            pair.cross = pair.cross * own + more.cross * of_other;
            pair.logits.merge(&more.logits);
        }
        for (side, more) in self.sides.iter_mut().zip(&other.sides) {
            side.merge(more);
        }
    }

    /// KL(A‖B) = Σ p_a·(a − b) − (ln Z_a − ln Z_b). Rounding, of the size 1e-16, could make it
    /// negative.
    fn kl(&self, (a, b): (usize, usize), pair: usize) -> f64 {
        let (a, b) = (&self.sides[a].softmax, &self.sides[b].softmax);
        let log_ratio = (a.max - b.max) + (a.sum / b.sum).ln();
        let kl = self.pairs[pair].cross / a.sum - log_ratio;
        match kl {
            _ if kl.is_nan() => f64::NAN, // of one sign, by which it is sorted
            ..0.0 => 0.0,
            kl => kl,
        }
    }
}

impl PositionSide {
    /// The likeliest token; none where logits are not finite.
    fn likeliest(&self) -> Option<u32> {
        // A logit that is NaN or infinite makes the sum NaN, one that is -∞ does not.
        (!self.softmax.sum.is_nan()).then_some(self.top[0].1)
    }

    /// Adds a piece.
    #[inline(always)]
    fn add(&mut self, logits: &[f64], exps: &mut [f64], start: usize) {
        let largest = self.scan(logits, start);
        self.softmax.raise(largest);
        let max = self.softmax.max;
        for (e, &z) in exps.iter_mut().zip(logits) {
            *e = exp(z - max);
        }
        self.softmax.sum += sum(exps);
    }

    /// Adds what is known from later words.
    fn merge(&mut self, other: &Self) {
        self.softmax.merge(&other.softmax);
        other.top.iter().for_each(|&(logit, id)| self.insert(logit, id));
    }

    /// Finds the largest logit, and any that belongs to the top.
    #[inline(always)]
    fn scan(&mut self, logits: &[f64], start: usize) -> f64 {
        const GROUP: usize = 64;
        let mut largest = f64::NEG_INFINITY;
        for (i, group) in logits.chunks(GROUP).enumerate() {
            let max = largest_of(group);
            largest = larger(largest, max);
            if max > self.top[TOP - 1].0 {
                for (j, &z) in group.iter().enumerate() {
                    if z > self.top[TOP - 1].0 {
                        self.insert(z, (start + i * GROUP + j) as u32);
                    }
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
pub(super) fn sums(positions: &[Position], places: (usize, usize), pair: usize) -> LogitSums {
    let mut sums = LogitSums::default();
    for position in positions {
        let (a, b) = (&position.sides[places.0], &position.sides[places.1]);
        sums.logits.merge(&position.pairs[pair].logits);
        sums.kl_nats.push(position.kl(places, pair));
        sums.top1.push(a.likeliest().zip(b.likeliest()).map(|(a, b)| a == b));
        sums.tops.push([a.top[0].1, b.top[0].1]);
        sums.margins.push([a, b].map(|side| side.top[0].0 - side.top[1].0));
        let common = |&&(_, id): &&(f64, u32)| b.top.iter().any(|top| top.1 == id);
        sums.top5.push(a.top.iter().filter(common).count() as u8);
        if position.label.is_some() {
            sums.nll_a.push(a.softmax.nll());
            sums.nll_b.push(b.softmax.nll());
        }
    }
    sums
}
