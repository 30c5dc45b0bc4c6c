//! The first point that differs by more than rounding.

use super::Run;
use crate::compare::checks::Weights;
use crate::compare::measure::{Measured, PointSums};
use crate::compare::point::{Place, Point};
use crate::compare::result::{ActivationReading, ComparedLogits, Distance};
use crate::compare::rule::{FEW_NUMBERS, unit_roundoff};
use std::collections::BTreeSet;

/// The first point that differs, and by how much.
pub(super) struct Guilty {
    pub(super) point: Point,
    pub(super) ratio: f64,
    pub(super) floor: f64,
    pub(super) inputs: BTreeSet<Point>,
    /// What its numbers are, where they were read one by one.
    pub(super) reading: Option<ActivationReading>,
}

impl Run<'_> {
    /// The first point that differs by more than rounding.
    pub(super) fn guilty(
        &self,
        measured: &Measured,
        activations: &[ActivationReading],
        logits: Option<&ComparedLogits>,
    ) -> Option<Guilty> {
        for (&point, sums) in &measured.points {
            let Some((distance, slack)) = self.evidence(sums) else { continue };
            let reading = activations.iter().find(|reading| {
                reading.differs && point == Point::Layer(reading.layer, Place::Activated)
            });
            let allowance = self.allowance(point);
            let is_read = reading.is_some() && allowance.rule.is_none();
            if is_read || allowance.exceeded_by(distance.ratio / slack) {
                return Some(Guilty {
                    point,
                    ratio: distance.ratio,
                    floor: distance.floor,
                    inputs: sums.inputs.clone(),
                    reading: reading.cloned(),
                });
            }
        }
        let logits = logits.filter(|logits| logits.differs)?;
        let allowed = self.allowance(Point::Logits);
        (allowed.rule.is_none() || allowed.exceeded_by(logits.ratio)).then(|| Guilty {
            point: Point::Logits,
            ratio: logits.ratio,
            floor: logits.floor.map_or(f64::NAN, |floor| floor.rel_l2),
            inputs: BTreeSet::new(),
            reading: None,
        })
    }

    /// What a point is judged by, and by how much more that may differ: theirs on its own input, or else a few printed
    /// numbers or what has accumulated at some positions, which scatter more.
    pub(super) fn evidence(&self, sums: &PointSums) -> Option<(Distance, f64)> {
        let floor = self.least_floor(&sums.inputs);
        let PointSums { accumulated, same_input, glimpse, .. } = sums;
        let accumulated = (accumulated.drift.count() > 0).then_some(accumulated);
        match (same_input, glimpse, accumulated) {
            (Some(pair), ..) if sums.scatters => Some((pair.distance(floor), FEW_NUMBERS)),
            (Some(pair), ..) => Some((pair.distance(floor), 1.0)),
            (None, Some(glimpse), _) => Some((glimpse.pair.distance(floor), FEW_NUMBERS)),
            (None, None, Some(pair)) => Some((pair.distance(floor), FEW_NUMBERS)),
            (None, None, None) => None,
        }
    }

    /// What rounding a number once does at most: no floor is lower. Weights that are known to be rounded themselves show
    /// in what is computed from the tokens.
    pub(super) fn least_floor(&self, inputs: &BTreeSet<Point>) -> f64 {
        let unit = unit_roundoff(self.precision.dtype);
        match inputs.is_empty() && self.has_rounded_weights() {
            true => unit.max(unit_roundoff(self.checkpoint.dtype())),
            false => unit,
        }
    }

    /// Whether theirs are our weights rounded, or ours theirs: by their hash, or in a format that stores no half types.
    pub(super) fn has_rounded_weights(&self) -> bool {
        let framework = self.theirs.metadata.get("framework");
        match self.weights {
            Weights::Same => false,
            Weights::Near | Weights::OtherHash => true,
            Weights::Alike | Weights::Unknown => framework.is_some_and(|name| name == "llama.cpp"),
        }
    }
}
