//! How far is too far.

use super::allow::Allow;
use super::options::CompareOptions;
use super::pair::Pair;
use super::point::Point;
use super::result::Distance;
use crate::drift::Accumulator;
use candle_core::DType;

/// How many times its floor a point may be from ours and still be rounding: right models of four frameworks stay below
/// 2 at every point (docs/compare.md).
pub(super) const THRESHOLD: f64 = 2.5;

/// Positions from which on a mean KL divergence is no chance. That of a right model is at most 1.5 times its floor then; of a
/// few positions it varies as much as a square of a distance does.
const ENOUGH_POSITIONS: usize = 32;

/// By how much more a few printed numbers may differ: they scatter more than all of a point.
pub(super) const FEW_NUMBERS: f64 = 2.0;

/// How far a point may be.
pub(super) struct Allowance {
    ratio: f64,
    /// The rule that says so.
    pub(super) rule: Option<String>,
}

/// How far a point may be: the last rule about it counts.
pub(super) fn allowance(options: &CompareOptions, point: Point) -> Allowance {
    let rule = options.allow.iter().rev().find(|rule| rule.is_about(&point.to_string()));
    Allowance { ratio: rule.map_or(THRESHOLD, Allow::ratio), rule: rule.map(Allow::to_string) }
}

impl Allowance {
    /// NaN is beyond everything.
    pub(super) fn exceeded_by(&self, ratio: f64) -> bool {
        ratio.is_nan() || ratio > self.ratio
    }
}

/// How many times the floor's the mean KL divergence of so many positions may be.
pub(super) fn kl_threshold(positions: usize) -> f64 {
    if positions >= ENOUGH_POSITIONS { THRESHOLD } else { THRESHOLD.powi(2) }
}

/// What rounding a number once to a dtype changes at most, relative to it.
pub(super) fn unit_roundoff(dtype: DType) -> f64 {
    let bits = match dtype {
        DType::BF16 => 9,
        DType::F16 => 12,
        _ => 24,
    };
    2f64.powi(-bits)
}

/// A distance over its floor; 0 of none.
pub(super) fn ratio(drift: f64, floor: f64) -> f64 {
    if drift == 0.0 { 0.0 } else { drift / floor }
}

/// Theirs (b) from ours (a), beside a floor.
pub(super) fn distance(sums: &Accumulator, floor: f64) -> Distance {
    let drift = sums.metrics();
    Distance {
        rel_l2: drift.rel_l2,
        cosine: drift.cosine,
        norm_ratio: sums.norm_ratio(),
        floor,
        ratio: ratio(drift.rel_l2, floor),
    }
}

impl Pair {
    /// Beside its floor, which is not below the least that there is.
    pub(super) fn distance(&self, least_floor: f64) -> Distance {
        distance(&self.drift, self.floor.metrics().rel_l2.max(least_floor))
    }

    /// Takes another right model's distance for the floor where it is larger.
    pub(super) fn widen(&mut self, other: &Self) {
        if other.drift.metrics().rel_l2 > self.floor.metrics().rel_l2 {
            self.floor = other.drift;
        }
    }
}
