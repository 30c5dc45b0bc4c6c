//! What was measured, as a result.

use super::Run;
use super::causes::{Named, candidate, certain};
use super::guilty::Guilty;
use crate::compare::align::Text;
use crate::compare::capture::counts;
use crate::compare::checks::TokenFault;
use crate::compare::dump::Dump;
use crate::compare::measure::{Measured, PointSums, Row, floor_positions};
use crate::compare::point::Point;
use crate::compare::precision::Precision;
use crate::compare::result::{
    ActivationReading, ComparedLayer, ComparedLogits, ComparedPoint, Comparison, DumpSummary,
    First, FloorSummary, MapRow, PositionMap, Reference, SCHEMA, Sight,
};
use crate::compare::rule::{THRESHOLD, ratio, unit_roundoff};
use crate::compare::words::Findings;
use crate::drift::CheckpointSummary;
use crate::error::Result;
use std::collections::{BTreeMap, BTreeSet};

/// Groups of positions in a map.
const GROUPS: usize = 128;

impl Run<'_> {
    pub(super) fn result(
        &mut self,
        fault: Option<TokenFault>,
        measured: Measured,
        activations: Vec<ActivationReading>,
        logits: Option<ComparedLogits>,
        guilty: Option<Guilty>,
        named: Named,
    ) -> Result<Comparison> {
        let Named { mut causes, tried, below_floor } = named;
        let mut layers: Vec<ComparedLayer> = vec![];
        let (mut ends, mut largest) = (vec![], 0f64);
        let mut agrees_before = false;
        for (&point, sums) in &measured.points {
            let compared = self.point(point, sums);
            let before = guilty.as_ref().is_none_or(|guilty| point < guilty.point);
            if before && let Some((distance, _)) = self.evidence(sums) {
                largest = largest.max(distance.ratio);
                agrees_before = true;
            }
            match point {
                Point::Layer(index, _) if self.reports(index) => {
                    ComparedLayer::add(&mut layers, index, compared)
                }
                Point::Layer(..) => {}
                _ => ends.push(compared),
            }
        }
        let first = guilty.as_ref().map(|guilty| First {
            layer: guilty.point.layer(),
            point: guilty.point.place().into(),
            ratio: guilty.ratio,
            from: guilty.inputs.iter().map(Point::to_string).collect(),
        });
        let mut before: Vec<_> = self.put_in().into_iter().collect();
        if let Some(fault) = fault {
            let (name, sentence) = match fault {
                TokenFault::NoBos => {
                    ("no BOS", "It ran without BOS, and is compared on its own tokens:")
                }
                TokenFault::TwoBos => {
                    ("two BOS", "It ran with BOS twice, and is compared on its own tokens:")
                }
            };
            before.push(sentence.to_string());
            causes.insert(0, certain(name));
        }
        let findings = Findings {
            first: first.as_ref().zip(guilty.as_ref().map(|guilty| guilty.point)),
            agrees_before,
            largest,
            logits: logits.as_ref(),
            causes: &causes,
            nearest: tried.first(),
            reading: guilty.as_ref().and_then(|guilty| guilty.reading.as_ref()),
            suspects: below_floor.iter().filter(|b| b.sight == Sight::Suspected).collect(),
            before,
        };
        let verdict = findings.verdict();
        let summary = self.summary();
        Ok(Comparison {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").into(),
            agrees: first.is_none() && fault.is_none(),
            with: self.options.with.iter().map(|mistake| mistake.name.into()).collect(),
            verdict,
            first,
            causes,
            candidates: tried.iter().map(candidate).collect(),
            below_floor,
            theirs: summary,
            ours: Reference::Model(CheckpointSummary::new(self.checkpoint)),
            floor: FloorSummary {
                description: self.arithmetic.description.clone(),
                tokens: {
                    let ours = &self.models.ours;
                    self.texts.iter().map(|t| floor_positions(ours, t.tokens.len())).sum()
                },
                references: self.options.references.iter().map(|d| d.source.clone()).collect(),
            },
            threshold: THRESHOLD,
            layers,
            ends,
            activations: activations.into_iter().filter(|a| self.reports(a.layer)).collect(),
            logits,
            map: map(&measured.rows, &measured.points, unit_roundoff(self.precision.dtype)),
            untold: std::mem::take(&mut self.untold),
            remarks: std::mem::take(&mut self.remarks),
        })
    }

    pub(super) fn reports(&self, layer: usize) -> bool {
        self.options.layers.is_empty() || self.options.layers.contains(&layer)
    }

    pub(super) fn point(&self, point: Point, sums: &PointSums) -> ComparedPoint {
        let floor = self.least_floor(&sums.inputs);
        let allowance = self.allowance(point);
        let same_input = sums.same_input.map(|pair| pair.distance(floor));
        let whole = sums.accumulated.drift.count() > 0;
        let seen = sums.glimpse.map(|glimpse| glimpse.pair.distance(floor));
        let differs = self
            .evidence(sums)
            .is_some_and(|(distance, slack)| allowance.exceeded_by(distance.ratio / slack));
        ComparedPoint {
            point: point.place().into(),
            accumulated: if whole { Some(sums.accumulated.distance(floor)) } else { seen },
            same_input,
            from: match sums.inputs.is_empty() {
                true => vec!["tokens".into()],
                false => sums.inputs.iter().map(Point::to_string).collect(),
            },
            glimpse: sums.glimpse.map(|glimpse| glimpse.largest),
            differs,
            allowed: allowance.rule,
        }
    }

    pub(super) fn summary(&self) -> DumpSummary {
        summary(self.theirs, &self.texts, &self.precision)
    }
}

fn summary(dump: &Dump, texts: &[Text], precision: &Precision) -> DumpSummary {
    let of = |text: &Text| -> BTreeSet<Point> {
        text.planes.keys().chain(text.glimpses.keys()).copied().collect()
    };
    let mut points = counts(texts.first().map(of).into_iter().flatten());
    if texts.iter().any(|text| !text.likeliest.is_empty()) {
        points.push(("log-probabilities".into(), 1));
    }
    DumpSummary {
        source: dump.source.clone(),
        format: dump.format.into(),
        framework: dump.metadata.get("framework").cloned(),
        dtype: precision.dtype.as_str().into(),
        dtype_reason: precision.reason.clone(),
        texts: texts.len(),
        tokens: texts.iter().map(|text| text.tokens.len()).sum(),
        points,
    }
}

fn map(rows: &[Row], points: &BTreeMap<Point, PointSums>, least_floor: f64) -> Option<PositionMap> {
    let positions = rows.iter().map(|row| row.squares.len()).max()?;
    let group = positions.div_ceil(GROUPS).max(1);
    let row = |row: &Row| {
        let pair = points.get(&row.point)?.accumulated;
        let floor = pair.floor.metrics().rel_l2.max(least_floor);
        let ratios = row.squares.chunks(group).map(|chunk| {
            let sum = |which: usize| chunk.iter().map(|squares| squares[which]).sum::<f64>();
            ratio((sum(0) / sum(1)).sqrt(), floor)
        });
        Some(MapRow {
            layer: row.point.layer()?,
            point: row.point.place().into(),
            ratios: ratios.collect(),
        })
    };
    Some(PositionMap { group, rows: rows.iter().filter_map(row).collect() })
}
