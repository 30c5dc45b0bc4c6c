//! Where the gates lie: a histogram of `gate(x)`, the activation's input.

use super::metrics::nan_from_null;
use super::values::with_values;
use crate::error::Result;
use candle_core::Tensor;
use gemma_mlp::internal::threads;
use gemma_mlp::internal::vectorized;
use serde::{Deserialize, Serialize};

/// How often gates have which value. Bins are half open: the i-th holds `low + i·step ≤ x <
/// low + (i + 1)·step`. NaN is in none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct GateHistogram {
    /// The left end of the first bin.
    #[serde(deserialize_with = "nan_from_null")]
    pub low: f64,
    /// The width of a bin.
    #[serde(deserialize_with = "nan_from_null")]
    pub step: f64,
    /// Values left of the first bin.
    pub below: u64,
    /// Values right of the last bin.
    pub above: u64,
    /// The values in each bin; none of nothing.
    pub counts: Vec<u64>,
}

/// From -8 to 8: farther out both GELUs are x or 0, whatever the type.
const LOW: f64 = -8.0;
/// An eighth: exact in any type, and a fifth of what the difference of the two GELUs rises over.
const STEP: f64 = 0.125;
const BINS: usize = 128;
/// Elements that a thread counts at a time.
const CHUNK: usize = 1 << 16;
/// Elements that are widened at a time.
const WIDENED: usize = 512;

impl GateHistogram {
    /// Counts the elements of a tensor of any shape and floating-point dtype, in bins of an eighth
    /// from -8 to 8.
    ///
    /// # Errors
    /// An integer dtype, a device that fails.
    pub fn of(gates: &Tensor) -> Result<Self> {
        let counts = with_values(gates, |gates| {
            let chunks = (0..gates.len()).step_by(CHUNK);
            let count = |start: usize| {
                // Neighbours, which are often alike, count in different places.
                let mut counts = [[0u32; BINS + 3]; 4];
                let (mut wide, mut bins) = ([0.0; WIDENED], [0; WIDENED]);
                let end = (start + CHUNK).min(gates.len());
                for at in (start..end).step_by(WIDENED) {
                    let range = at..(at + WIDENED).min(end);
                    let (wide, bins) = (&mut wide[..range.len()], &mut bins[..range.len()]);
                    vectorized(
                        #[inline(always)]
                        || {
                            gates.widen(range, wide);
                            bins.iter_mut().zip(&*wide).for_each(|(bin, &x)| *bin = bin_of(x));
                        },
                    );
                    for (i, &bin) in bins.iter().enumerate() {
                        counts[i % 4][bin as usize] += 1;
                    }
                }
                let total = |bin: usize| counts.iter().map(|c| u64::from(c[bin])).sum();
                (0..BINS + 3).map(total).collect::<Vec<u64>>()
            };
            let mut sums = vec![0; BINS + 3];
            for counts in threads::map(gates.len(), chunks, count) {
                sums.iter_mut().zip(counts).for_each(|(sum, n): (&mut u64, u64)| *sum += n);
            }
            Ok(sums)
        })?;
        Ok(Self {
            low: LOW,
            step: STEP,
            below: counts[0],
            above: counts[BINS + 1],
            counts: counts[1..=BINS].to_vec(),
        })
    }

    /// Adds the counts of another histogram.
    pub(super) fn merge(&mut self, other: &Self) {
        if self.counts.is_empty() {
            *self = other.clone();
            return;
        }
        self.below += other.below;
        self.above += other.above;
        self.counts.iter_mut().zip(&other.counts).for_each(|(n, other)| *n += other);
    }

    /// Whether another histogram has the same bins.
    pub(super) fn has_bins_of(&self, other: &Self) -> bool {
        let bins = |h: &Self| (h.low.to_bits(), h.step.to_bits(), h.counts.len());
        bins(self) == bins(other)
    }

    /// The largest count there is.
    pub(super) fn largest(&self) -> u64 {
        self.counts.iter().copied().fold(self.below.max(self.above), u64::max)
    }

    /// How many values there are.
    pub fn total(&self) -> u64 {
        let ends = self.below.saturating_add(self.above);
        self.counts.iter().fold(ends, |sum, &n| sum.saturating_add(n))
    }
}

/// Where a value counts: 0 is below all bins, `BINS + 1` above, `BINS + 2` is for NaN.
#[inline(always)]
fn bin_of(x: f64) -> i32 {
    const LAST: f64 = (BINS + 1) as f64;
    let at = (x - LOW) * (1.0 / STEP) + 1.0;
    let at = if at > 0.0 { at } else { 0.0 };
    let at = if at < LAST { at } else { LAST };
    if x.is_nan() { BINS as i32 + 2 } else { at as i32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn every_value_has_its_bin() {
        let nan = f32::NAN;
        let values =
            [-8.0f32, -8.01, -1e30, 7.99, 8.0, f32::INFINITY, 0.0, 0.1249, 0.125, -0.01, nan];
        let gates = Tensor::new(&values, &Device::Cpu).unwrap();
        let histogram = GateHistogram::of(&gates).unwrap();
        assert_eq!((histogram.below, histogram.above, histogram.total()), (2, 2, 10));
        let at = |i: usize| histogram.counts[i];
        assert_eq!((at(0), at(127), at(63), at(64), at(65)), (1, 1, 1, 2, 1));
        let mut twice = GateHistogram::default();
        twice.merge(&histogram);
        twice.merge(&histogram);
        assert_eq!((twice.total(), twice.counts[64], twice.low), (20, 4, -8.0));
    }
}
