//! One position's softmax, summed up as pieces of the vocabulary come.

use gemma_mlp::internal::exp;

/// What is known of a position's softmax after some pieces. Sums are relative to the largest logit.
#[derive(Clone, Copy)]
pub(super) struct Softmax {
    /// The largest logit.
    pub(super) max: f64,
    /// Σ exp(z − max).
    pub(super) sum: f64,
    /// What the last piece made sums of earlier ones be multiplied by.
    pub(super) rescale: f64,
    /// The label's logit; NaN until it comes.
    label: f64,
}

impl Softmax {
    /// Of no words.
    pub(super) fn new() -> Self {
        Self { max: f64::NEG_INFINITY, sum: 0.0, rescale: 1.0, label: f64::NAN }
    }

    /// Prepares for a piece, whose largest logit may be the largest of all. Whoever calls adds the
    /// piece's Σ exp(z − max) to the sum.
    #[inline(always)]
    pub(super) fn raise(&mut self, largest: f64) {
        let max = larger(self.max, largest);
        self.rescale = rescale(self.max, max);
        self.sum *= self.rescale;
        self.max = max;
    }

    /// Takes the label's logit from a piece that has it.
    pub(super) fn find(&mut self, label: Option<u32>, logits: &[f64], start: usize) {
        if let Some(at) = place(label, start, logits.len()) {
            self.label = logits[at];
        }
    }

    /// Adds what is known from later words.
    pub(super) fn merge(&mut self, other: &Self) {
        let [own, of_other] = self.scales(other);
        self.sum = self.sum * own + other.sum * of_other;
        self.max = larger(self.max, other.max);
        if self.label.is_nan() {
            self.label = other.label;
        }
    }

    /// What the sums of two must be multiplied by to be relative to the larger maximum.
    pub(super) fn scales(&self, other: &Self) -> [f64; 2] {
        let max = larger(self.max, other.max);
        [rescale(self.max, max), rescale(other.max, max)]
    }

    /// The label's negative log-likelihood, in nats.
    pub(super) fn nll(&self) -> f64 {
        (self.max - self.label) + self.sum.ln()
    }
}

/// Where a word is in a piece of `len` words from `start` on.
pub(super) fn place(word: Option<u32>, start: usize, len: usize) -> Option<usize> {
    let at = (word? as usize).checked_sub(start)?;
    (at < len).then_some(at)
}

/// What sums relative to one maximum are multiplied by to be relative to another.
#[inline(always)]
fn rescale(max: f64, to: f64) -> f64 {
    if max == to { 1.0 } else { exp(max - to) }
}

/// The larger number; NaN is none.
#[inline(always)]
pub(super) fn larger(a: f64, b: f64) -> f64 {
    if b > a { b } else { a }
}

/// The largest of some numbers, in eight parts, which a vector register holds.
#[inline(always)]
pub(super) fn largest_of(values: &[f64]) -> f64 {
    let mut largest = [f64::NEG_INFINITY; 8];
    let (whole, rest) = values.as_chunks::<8>();
    for values in whole {
        for i in 0..8 {
            largest[i] = larger(largest[i], values[i]);
        }
    }
    largest.iter().chain(rest).copied().fold(f64::NEG_INFINITY, larger)
}
