//! Drift inside the layers: in each block on one input, and accumulated in the residual stream.

use super::gates::GateHistogram;
use super::lockstep::{LaneStep, Lockstep};
use super::metrics::{Accumulator, Metrics, NonFinite, nan_from_null};
use crate::error::Result;
use crate::input::InputKind;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Figures at three points of a block.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct BlockPoints {
    /// `activation(gate)`.
    pub activation: Metrics,
    /// `activation(gate) ⊙ up`.
    pub product: Metrics,
    /// The block's output.
    pub output: Metrics,
}

/// One block's drift, both sides on one input: what enters the block in one side's own pass over the
/// text, that of the narrower dtype, or else side a.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct LayerDrift {
    /// Which block.
    pub index: usize,
    /// Prefix of its tensors in the checkpoint.
    pub name: String,
    /// Where its input comes from.
    pub input: InputKind,
    /// Figures of the pair of sides.
    #[serde(flatten)]
    pub drift: BlockPoints,
    /// Figures of the pair that differs by rounding alone.
    pub floor: BlockPoints,
    /// Where the gates lie, of which the activation is taken, under side a.
    pub gates: GateHistogram,
}

/// How far the residual streams after a layer have come apart.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct ResidualDrift {
    /// After which layer.
    pub index: usize,
    /// ‖b − a‖/‖a‖ of the residual streams of the pair of sides.
    #[serde(deserialize_with = "nan_from_null")]
    pub rel_l2: f64,
    /// ‖b − a‖/‖a‖ of the pair that differs by rounding alone.
    #[serde(deserialize_with = "nan_from_null")]
    pub floor_rel_l2: f64,
}

/// The sums of one block: activation, product and output.
pub(super) type PointSums = [Accumulator; 3];

/// The sums of one layer in one window.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub(super) struct LayerSums {
    pub(super) drift: PointSums,
    pub(super) floor: PointSums,
    pub(super) residual: Accumulator,
    pub(super) floor_residual: Accumulator,
    pub(super) gates: GateHistogram,
}

/// The places of the four sides among those that run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    /// a and b of the pair.
    pub(super) drift: (usize, usize),
    /// a and b of the pair that differs by rounding alone.
    pub(super) floor: (usize, usize),
}

impl LayerSums {
    /// Adds another window's.
    pub(super) fn merge(&mut self, other: &Self) {
        for (sums, other) in [(&mut self.drift, &other.drift), (&mut self.floor, &other.floor)] {
            sums.iter_mut().zip(other).for_each(|(sums, other)| sums.merge(other));
        }
        self.residual.merge(&other.residual);
        self.floor_residual.merge(&other.floor_residual);
        self.gates.merge(&other.gates);
    }

    /// The sums of those positions of a layer in a lockstep run that are scored and that both sides
    /// of a pair have: `scored` counts from the steps' first position on.
    pub(super) fn of_step(
        lockstep: &Lockstep,
        layer: usize,
        lanes: &[LaneStep],
        places: Places,
        scored: &Range<usize>,
    ) -> Result<Self> {
        let length = |lane: usize| lanes[lane].stream.dims()[1];
        let common = |(a, b): (usize, usize)| {
            let end = length(a).min(length(b));
            scored.start.min(end)..scored.end.min(end)
        };
        let some = |t: &Tensor, at: &Range<usize>| t.narrow(1, at.start, at.len());
        let residual = |(a, b)| {
            let at = common((a, b));
            let (a, b) = (some(&lanes[a].stream, &at)?, some(&lanes[b].stream, &at)?);
            Accumulator::of(&a, &b)
        };
        let block = |(a, b)| -> Result<PointSums> {
            let (at, mut sums) = (common((a, b)), PointSums::default());
            if at.is_empty() {
                return Ok(sums);
            }
            // The narrower side's input is one that both can represent.
            let (own, other) = if size(b, lanes) < size(a, lanes) { (b, a) } else { (a, b) };
            let trace = forced(lockstep, layer, lanes, (own, other), at.end)?;
            let own = &lanes[own];
            let points =
                [(&own.activated, &trace[0]), (&own.product, &trace[1]), (&own.output, &trace[2])];
            for (sums, (x, y)) in sums.iter_mut().zip(points) {
                let (x, y) = (some(x, &at)?, some(y, &at)?);
                let (x, y) = if size(b, lanes) < size(a, lanes) { (y, x) } else { (x, y) };
                sums.add(&x, &y)?;
            }
            Ok(sums)
        };
        let a = places.drift.0;
        Ok(Self {
            drift: block(places.drift)?,
            floor: block(places.floor)?,
            residual: residual(places.drift)?,
            floor_residual: residual(places.floor)?,
            gates: GateHistogram::of(&some(&lanes[a].projected.gate, &common((a, a)))?)?,
        })
    }

    /// Whether everything that the pair of sides computed was finite.
    pub(super) fn is_finite(&self) -> bool {
        self.drift.iter().chain([&self.residual]).all(Accumulator::is_finite)
    }

    /// Which sides of the pair, and of the floor, had values that are not finite: in their residual
    /// streams, since a block gets the other side's input, or in the blocks if there are no streams.
    pub(super) fn nonfinite(&self, whole_model: bool) -> [NonFinite; 2] {
        let of = |points: &PointSums, residual: &Accumulator| match whole_model {
            true => residual.nonfinite(),
            false => points.iter().fold(NonFinite::default(), |all, p| all.or(p.nonfinite())),
        };
        [of(&self.drift, &self.residual), of(&self.floor, &self.floor_residual)]
    }

    /// All its sums.
    pub(super) fn accumulators(&self) -> impl Iterator<Item = &Accumulator> {
        let points = self.drift.iter().chain(&self.floor);
        points.chain([&self.residual, &self.floor_residual])
    }
}

/// What the block of a side makes of another side's input, up to a position at least: activation,
/// product and output.
fn forced(
    lockstep: &Lockstep,
    layer: usize,
    lanes: &[LaneStep],
    (own, other): (usize, usize),
    end: usize,
) -> Result<[Tensor; 3]> {
    let block = lockstep.block(other, layer);
    let projected = match lockstep.share(own, other) {
        true => lanes[own].projected.clone(),
        false => {
            let input = lanes[own].input.narrow(1, 0, end)?;
            block.project(&input.to_dtype(lanes[other].input.dtype())?)?
        }
    };
    let (activated, product) = block.activated_and_product(&projected)?;
    let output = block.down(&product)?;
    Ok([activated, product, output])
}

fn size(lane: usize, lanes: &[LaneStep]) -> usize {
    lanes[lane].input.dtype().size_in_bytes()
}

/// The figures of three sums.
pub(super) fn points(sums: &PointSums) -> BlockPoints {
    let [activation, product, output] = sums.map(|sums| sums.metrics());
    BlockPoints { activation, product, output }
}
