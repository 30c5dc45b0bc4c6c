//! Which mistakes explain what differs, and what can be said of those that rounding hides.

use super::Run;
use super::guilty::Guilty;
use crate::compare::below::{Spot, below_floor};
use crate::compare::measure::{FLOOR_POSITIONS, Measured, floor_positions, measure};
use crate::compare::models::varied;
use crate::compare::naming::{Tried, claimed, repaired, try_all};
use crate::compare::point::{Place, Point};
use crate::compare::result::{
    ActivationReading, BelowFloor, Candidate, Cause, ComparedLogits, Sight,
};
use crate::compare::rule::THRESHOLD;
use crate::compare::segment::Segment;
use crate::error::Result;
use gemma_mlp::Gemma;
use gemma_mlp::model::Variation;
use std::collections::BTreeSet;

/// Positions in which a mistake is looked for: more than the sliding window of any small Gemma, so that a wrong window
/// shows.
const NAMING_POSITIONS: usize = 1024;

/// Places that show a mistake below the floor: behind each norm, the heads, and what is nonlinear.
const SHOWS: [Place; 7] = [
    Place::AttnInput,
    Place::Queries,
    Place::AttnOutput,
    Place::MlpInput,
    Place::Activated,
    Place::MlpOutput,
    Place::Hidden,
];

/// Mistakes that are looked for one after the other.
const MISTAKES: usize = 2;

/// What mistakes were tried, and what came of it.
#[derive(Default)]
pub(super) struct Named {
    pub(super) causes: Vec<Cause>,
    pub(super) tried: Vec<Tried>,
    pub(super) below_floor: Vec<BelowFloor>,
}

impl Run<'_> {
    /// Names the mistake at the first point that differs, and another one in what is left.
    pub(super) fn name(
        &mut self,
        guilty: &Guilty,
        given: &BTreeSet<Point>,
        mut progress: impl FnMut(f64) -> Result<()>,
    ) -> Result<Named> {
        let mut model = varied(&self.models.ours, &self.arithmetic.centre)?;
        let (mut causes, mut all) = (vec![], vec![]);
        let mut at = (guilty.point, guilty.floor);
        for round in 0..MISTAKES {
            let (point, floor) = at;
            // A bidirectional model sees all of the text at once.
            let positions = NAMING_POSITIONS.max(self.models.ours.seen_ahead());
            // What only shows in the end is what the tokens come to, whatever is given on the way.
            let from_tokens = round == 0 && guilty.inputs.is_empty();
            let segment = Segment::new(&self.texts[0], positions, from_tokens);
            let share = |done: f64| (round as f64 + done) / MISTAKES as f64;
            let tried = try_all(&model, &self.arithmetic, &segment, point, floor, |done| {
                progress(share(done))
            })?;
            let read = guilty.reading.as_ref().filter(|_| round == 0);
            let best = match read.and_then(|reading| of_reading(reading, &tried)) {
                // Read number by number: no statistics say it better.
                Some(read) => Some(read.clone()),
                None => claimed(&tried).cloned(),
            };
            if round == 0 {
                all = tried.clone();
            }
            let Some(best) = best else { break };
            causes.push(cause(&best, &tried, point));
            model = repaired(&model, &best)?;
            match self.next_guilty(&model, given)? {
                Some(next) => at = next,
                None => break,
            }
        }
        Ok(Named { causes, tried: all, below_floor: vec![] })
    }

    /// The first point that differs from a model which has a mistake already.
    fn next_guilty(&self, model: &Gemma, given: &BTreeSet<Point>) -> Result<Option<(Point, f64)>> {
        let text = self.texts[0].first(floor_positions(model, self.texts[0].tokens.len()));
        let models = self.models.with(model.clone());
        let graph = self.graph(given);
        let texts = [text];
        let found = measure(&texts, &models, &graph, self.device, |_, _, _| Ok(()), |_| Ok(()))?;
        for (&point, sums) in &found.points {
            let Some(pair) = &sums.same_input else { continue };
            let distance = pair.distance(self.least_floor(&sums.inputs));
            if self.allowance(point).exceeded_by(distance.ratio) {
                return Ok(Some((point, distance.floor)));
            }
        }
        Ok(None)
    }

    /// Looks for mistakes below the floor, where nothing is above it.
    pub(super) fn look_below_floor(
        &mut self,
        measured: &Measured,
        logits: Option<&ComparedLogits>,
        progress: impl FnMut(f64) -> Result<()>,
    ) -> Result<Named> {
        let attention = self.checkpoint.attention()?;
        let global = attention.layers.iter().position(|layer| layer.sliding_window.is_none());
        // Each kind of layer that there is, at points behind which every mistake shows.
        let mut points: Vec<(Point, f64)> = vec![];
        for (&point, sums) in &measured.points {
            let Point::Layer(layer, place) = point else { continue };
            let (Some(pair), true) = (&sums.same_input, SHOWS.contains(&place)) else { continue };
            if layer == 0 || Some(layer) == global {
                points.push((point, pair.distance(self.least_floor(&sums.inputs)).floor));
            }
        }
        let floor = logits.and_then(|logits| logits.floor).map(|floor| floor.rel_l2);
        let from_tokens = points.is_empty();
        match floor {
            Some(floor) if from_tokens => points.push((Point::Logits, floor)),
            _ => {}
        }
        let spot = |positions: usize, points: Vec<(Point, f64)>| {
            let positions = positions.max(attention.seen_ahead());
            let segment = Segment::new(&self.texts[0], positions, from_tokens);
            let longest = attention.layers.iter().filter_map(|layer| layer.sliding_window).max();
            let for_windows = longest.is_none_or(|window| segment.positions > window);
            Spot { segment, points, for_windows }
        };
        let of_attention = |(point, _): &&(Point, f64)| {
            matches!(point, Point::Layer(_, Place::AttnOutput) | Point::Logits)
        };
        let for_windows: Vec<_> = points.iter().filter(of_attention).copied().collect();
        let short = if from_tokens { NAMING_POSITIONS } else { FLOOR_POSITIONS };
        let spots = [spot(short, points), spot(NAMING_POSITIONS, for_windows)];
        let model = varied(&self.models.ours, &self.arithmetic.centre)?;
        let found = below_floor(&model, &self.arithmetic, &spots, THRESHOLD, progress)?;
        let hidden = found.iter().filter(|below| below.sight == Sight::TooSmallToTell);
        let named = hidden.filter_map(|below| {
            Some(format!("{} ({} tokens would be enough)", below.name, below.tokens?))
        });
        let named: Vec<_> = named.collect();
        if !named.is_empty() {
            self.untold.push(format!(
                "whether it has one of these, whose effect is too small to tell: {}",
                named.join(", ")
            ));
        }
        Ok(Named { below_floor: found, ..Named::default() })
    }
}

fn cause(best: &Tried, tried: &[Tried], point: Point) -> Cause {
    // The next best by direction, which is what a cosine tells.
    let others = tried.iter().filter(|other| other.difference.name != best.difference.name);
    let next = others.max_by(|a, b| a.cosine.total_cmp(&b.cosine));
    Cause {
        name: best.difference.name.into(),
        source: best.difference.source.into(),
        cosine: best.cosine,
        size: best.size,
        runner_up: next.map(|next| next.cosine),
        runner_up_name: next.map(|next| next.difference.name.into()),
        layer: point.layer(),
        point: point.place().into(),
    }
}

/// A cause that the tokens show.
pub(super) fn certain(name: &str) -> Cause {
    Cause {
        name: name.into(),
        source: "a tokenizer or its settings".into(),
        cosine: 1.0,
        size: 1.0,
        runner_up: None,
        runner_up_name: None,
        layer: None,
        point: "tokens".into(),
    }
}

/// The mistake that puts the activation in the gate which was read there.
fn of_reading<'a>(reading: &ActivationReading, tried: &'a [Tried]) -> Option<&'a Tried> {
    let puts_it = |variation: &Variation| match variation {
        Variation::Activation(activation) => {
            reading.activation.as_ref() == Some(&activation.to_string())
        }
        _ => false,
    };
    tried.iter().find(|tried| tried.variations.iter().all(puts_it))
}

pub(super) fn candidate(tried: &Tried) -> Candidate {
    Candidate {
        name: tried.difference.name.into(),
        cosine: tried.cosine,
        size: tried.size,
        left: tried.left,
        ratio: tried.ratio,
    }
}
