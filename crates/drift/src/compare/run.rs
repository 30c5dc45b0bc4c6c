//! A dump against our own model of a checkpoint.

use super::activation;
use super::align::{Aligned, Text, align, refused};
use super::allow::Allow;
use super::arithmetic::Arithmetic;
use super::below::below_floor;
use super::capture::counts;
use super::checks::{TokenFault, WEIGHTS, Weights, check_tokens, check_weights, odd_planes};
use super::dump::Dump;
use super::glimpses::glimpse;
use super::graph::Graph;
use super::logits::{Heads, Sums};
use super::measure::{FLOOR_POSITIONS, Measured, Pair, PointSums, Row, Streams, measure};
use super::models::{Models, logits};
use super::naming::{Tried, claimed, repaired, try_all};
use super::options::CompareOptions;
use super::point::{Place, Point};
use super::precision::Precision;
use super::result::*;
use super::segment::Segment;
use super::words::Findings;
use crate::drift::{Accumulator, CheckpointSummary};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use gemma_mlp::checkpoint::{Remark, RemarkKind};
use gemma_mlp::model::Variation;
use gemma_mlp::{Checkpoint, Gemma};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// How many times its floor a point may be from ours and still be rounding: right models of four frameworks stay below
/// 2 at every point (docs/compare.md).
pub(super) const THRESHOLD: f64 = 2.5;

/// Positions from which on a mean KL divergence is no chance. That of a right model is at most 1.5 times its floor then; of a
/// few positions it varies as much as a square of a distance does.
const ENOUGH_POSITIONS: usize = 32;

/// By how much more a few printed numbers may differ: they scatter more than all of a point.
const FEW_NUMBERS: f64 = 2.0;

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

/// Groups of positions in a map.
const GROUPS: usize = 128;

/// Compares what someone else's model computed with our own model of the same checkpoint: where it differs first by
/// more than rounding, on its own input, and which known mistake it is.
///
/// `progress` is called with the fraction that is done; returning [`ControlFlow::Break`] ends the run with
/// [`Error::Stopped`].
///
/// # Errors
/// [`Error::NotComparable`]: other tokens, other weights, shapes that fit in no certain way, a dump without tokens.
/// A family whose whole model does not run here; a file that changed.
pub fn compare(
    theirs: &Dump,
    checkpoint: &Checkpoint,
    options: &CompareOptions,
    device: &Device,
    mut progress: impl FnMut(f64) -> ControlFlow<()>,
) -> Result<Comparison> {
    let mut progress = move |done: f64| match progress(done) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Stopped),
    };
    let Aligned { texts, remarks } = align(theirs, checkpoint)?;
    let precision = Precision::of_dump(theirs, options.dtype)?;
    let arithmetic = Arithmetic::of(&theirs.metadata, precision.dtype);
    let models = Models::load(checkpoint, &arithmetic, device)?;
    progress(0.05)?;
    let mut run = Run {
        theirs,
        checkpoint,
        options,
        device,
        precision,
        arithmetic,
        models,
        texts,
        remarks,
        untold: vec![],
        weights: Weights::Unknown,
    };
    run.compare(&mut progress)
}

/// A comparison on its way.
struct Run<'a> {
    theirs: &'a Dump,
    checkpoint: &'a Checkpoint,
    options: &'a CompareOptions,
    device: &'a Device,
    precision: Precision,
    arithmetic: Arithmetic,
    models: Models,
    texts: Vec<Text>,
    remarks: Vec<Remark>,
    untold: Vec<String>,
    weights: Weights,
}

/// What mistakes were tried, and what came of it.
struct Named {
    causes: Vec<Cause>,
    tried: Vec<Tried>,
    below_floor: Vec<BelowFloor>,
}

/// The first point that differs, and by how much.
struct Guilty {
    point: Point,
    ratio: f64,
    floor: f64,
    inputs: BTreeSet<Point>,
    /// What its numbers are, where they were read one by one.
    reading: Option<ActivationReading>,
}

impl Run<'_> {
    fn compare(&mut self, progress: &mut impl FnMut(f64) -> Result<()>) -> Result<Comparison> {
        let fault = self.check()?;
        let mut given = self.given();
        let mut activations = vec![];
        let mut measured =
            self.measure(&given, &mut activations, |done| progress(0.05 + 0.4 * done))?;
        if self.last_is_normed(&measured)? {
            given = self.given();
            activations.clear();
            measured = self.measure(&given, &mut activations, |_| Ok(()))?;
        }
        self.widen_by_references(&mut measured, &given)?;
        self.final_norms(&mut measured)?;
        let mut sums = self.logit_sums(&measured, |done| progress(0.45 + 0.25 * done))?;
        if let Some(capped) = self.with_softcap(&sums, &measured)? {
            sums = capped;
        }
        let logits = self.logits(sums, &mut measured);
        let guilty = self.guilty(&measured, &activations, logits.as_ref());
        let mut causes: Vec<Cause> = vec![];
        let mut tried = vec![];
        if let Some(guilty) = &guilty {
            (causes, tried) = self.name(guilty, &given, |done| progress(0.7 + 0.3 * done))?;
        }
        let below_floor = match guilty {
            None => {
                self.below_floor(&measured, logits.as_ref(), |done| progress(0.7 + 0.3 * done))?
            }
            Some(_) => vec![],
        };
        let named = Named { causes, tried, below_floor };
        self.result(fault, measured, activations, logits, guilty, named)
    }

    /// Whether the two can be compared.
    fn check(&mut self) -> Result<Option<TokenFault>> {
        let bos = self.checkpoint.config().bos_token_id;
        let fault = match (&self.options.tokens, &self.texts[..]) {
            (Some(meant), [text]) => check_tokens(self.theirs, &text.tokens, meant, bos)?,
            _ => None,
        };
        let ids = self.texts.iter().map(|text| &text.tokens[..]);
        let longest = ids.clone().map(<[u32]>::len).max().unwrap_or(0);
        self.remarks.extend(crate::input::text_remarks(self.checkpoint, ids, longest));
        self.remarks.extend(self.theirs.remarks.iter().cloned());
        self.remarks.extend(self.checkpoint.remarks().iter().cloned());
        for text in &self.texts {
            self.remarks.extend(odd_planes(self.theirs, text)?);
        }
        let gemma = &self.models.ours;
        self.weights = check_weights(self.theirs, &self.texts[0], self.checkpoint, gemma)?;
        let warn = |text: &str| Remark::warning(RemarkKind::Weights, text);
        match self.weights {
            Weights::Same | Weights::Alike => {}
            Weights::Near => self.remarks.push(warn(
                "the weights of its first block have another hash; they compute alike, and may be rounded or quantised",
            )),
            Weights::OtherHash => self.remarks.push(warn(
                "the weights of its first block have another hash, and it has no mlp.input and mlp.gate to tell how far they are",
            )),
            Weights::Unknown => self.untold.push(format!(
                "whether the weights are the same: there is neither {WEIGHTS} nor mlp.input and mlp.gate of layer 0"
            )),
        }
        Ok(fault)
    }

    /// The points that every text has at all positions.
    fn given(&self) -> BTreeSet<Point> {
        let whole = |text: &Text| -> BTreeSet<Point> {
            let planes = text.planes.iter();
            planes.filter(|(_, rows)| rows.is_whole(text.tokens.len())).map(|(p, _)| *p).collect()
        };
        let all = self.texts.iter().map(whole).reduce(|a, b| &a & &b);
        all.unwrap_or_default()
    }

    fn graph<'g>(&self, given: &'g BTreeSet<Point>) -> Graph<'g> {
        Graph { layers: self.checkpoint.blocks().len(), given }
    }

    fn measure(
        &self,
        given: &BTreeSet<Point>,
        activations: &mut Vec<ActivationReading>,
        progress: impl FnMut(f64) -> Result<()>,
    ) -> Result<Measured> {
        let dtype = self.precision.dtype;
        let mut read = BTreeSet::new();
        measure(
            &self.texts,
            &self.models,
            &self.graph(given),
            self.device,
            |layer, own, given| {
                let (gate, activated) = (given.get(&Place::Gate), given.get(&Place::Activated));
                if let (Some(gate), Some(activated)) = (gate, activated)
                    && read.insert(layer)
                {
                    let meant = own.mlp().activation();
                    activations.push(activation::read(layer, gate, activated, dtype, meant)?);
                }
                Ok(())
            },
            progress,
        )
    }

    /// Whether what a dump calls the last residual stream is that behind the final norm, as the last of transformers'
    /// `hidden_states` is; then it is taken for that.
    fn last_is_normed(&mut self, measured: &Measured) -> Result<bool> {
        let last = self.checkpoint.blocks().len() - 1;
        let point = Point::Layer(last, Place::Hidden);
        let Some(rows) = self.texts[0].planes.get(&point) else { return Ok(false) };
        if rows.len() == 0 || self.texts[0].planes.contains_key(&Point::Normed) {
            return Ok(false);
        }
        let theirs = rows.all()?.to_device(self.device)?.unsqueeze(0)?;
        let first = self.texts[0].tokens.len() - rows.len();
        let stream = measured.streams[0].ours.narrow(1, first, rows.len())?;
        let normed = self.models.ours.final_norm(&stream)?;
        let distance =
            |ours: &Tensor| -> Result<f64> { Ok(Accumulator::of(ours, &theirs)?.metrics().rel_l2) };
        let (as_it_is, as_normed) = (distance(&stream)?, distance(&normed)?);
        if !(as_it_is > 0.5 && as_normed < as_it_is / 4.0) {
            return Ok(false);
        }
        for text in &mut self.texts {
            if let Some(rows) = text.planes.remove(&point) {
                text.planes.insert(Point::Normed, rows);
            }
        }
        let text = format!(
            "{point} is what the final norm makes of it, as the last of transformers' hidden_states is; it is compared as normed"
        );
        self.remarks.push(Remark::note(RemarkKind::Chosen, text));
        Ok(true)
    }

    /// Adds what other frameworks' right models do to the floor.
    fn widen_by_references(&self, measured: &mut Measured, given: &BTreeSet<Point>) -> Result<()> {
        for reference in &self.options.references {
            let Aligned { texts, .. } = align(reference, self.checkpoint)?;
            let same = texts.iter().map(|t| &t.tokens).eq(self.texts.iter().map(|t| &t.tokens));
            if !same {
                return Err(refused(reference, "a reference must be on the same tokens"));
            }
            let graph = self.graph(given);
            let other =
                measure(&texts, &self.models, &graph, self.device, |_, _, _| Ok(()), |_| Ok(()))?;
            for (point, sums) in &mut measured.points {
                let Some(other) = other.points.get(point) else { continue };
                sums.accumulated.widen(&other.accumulated);
                if let (Some(own), Some(other)) = (&mut sums.same_input, &other.same_input) {
                    own.widen(other);
                }
            }
        }
        Ok(())
    }

    /// Adds the final norm.
    fn final_norms(&self, measured: &mut Measured) -> Result<()> {
        let Models { ours, beside } = &self.models;
        for (text, streams) in self.texts.iter().zip(&measured.streams) {
            self.glimpse_ends(text, streams, &mut measured.points)?;
            let Some(rows) = text.planes.get(&Point::Normed) else { continue };
            let theirs = rows.all()?.unsqueeze(0)?.to_device(self.device)?;
            let first = text.tokens.len() - rows.len();
            let norms = |a: &_, b: &_| Ok::<_, Error>([ours.final_norm(a)?, beside.final_norm(b)?]);
            let sums = measured.points.entry(Point::Normed).or_default();
            let [a, b] = norms(&streams.ours, &streams.beside)?;
            sums.accumulated.add(&self.models, &a, &b, &theirs, first)?;
            sums.same_input = match &streams.local {
                Some([local, local_beside]) if rows.is_whole(text.tokens.len()) => {
                    let [a, b] = norms(local, local_beside)?;
                    let mut pair = sums.same_input.unwrap_or_default();
                    pair.add(&self.models, &a, &b, &theirs, 0)?;
                    Some(pair)
                }
                _ => Some(sums.accumulated),
            };
        }
        Ok(())
    }

    /// Adds a few printed numbers behind the last layer.
    fn glimpse_ends(
        &self,
        text: &Text,
        streams: &Streams,
        points: &mut BTreeMap<Point, PointSums>,
    ) -> Result<()> {
        let Models { ours, beside } = &self.models;
        let mut add = |point, a: &Tensor, b: &Tensor| -> Result<()> {
            if let Some(theirs) = text.glimpses.get(&point) {
                let seen = glimpse(&self.models, a, b, theirs)?;
                points.entry(point).or_default().glimpse = Some(seen);
            }
            Ok(())
        };
        let normed = [ours.final_norm(&streams.ours)?, beside.final_norm(&streams.beside)?];
        add(Point::Normed, &normed[0], &normed[1])?;
        if text.glimpses.contains_key(&Point::Logits) && text.tokens.len() <= FLOOR_POSITIONS {
            let last = |gemma: &Gemma, x: &Tensor| -> Result<Tensor> {
                let head = gemma.head().ok_or(Error::NoHead { lacks: "has no logits" })?;
                logits(head, &x.squeeze(0)?.narrow(0, text.tokens.len() - 1, 1)?)
            };
            add(Point::Logits, &last(ours, &normed[0])?, &last(beside, &normed[1])?)?;
        }
        Ok(())
    }

    fn logit_sums(
        &self,
        measured: &Measured,
        mut progress: impl FnMut(f64) -> Result<()>,
    ) -> Result<Sums> {
        let mut sums = Sums::default();
        let heads = Heads {
            checkpoint: self.checkpoint,
            models: &self.models,
            dtype: self.precision.dtype,
            device: self.device,
        };
        for (text, streams) in self.texts.iter().zip(&measured.streams) {
            heads.add(text, streams, &mut sums, &mut progress)?;
            heads.add_likeliest(text, streams, &mut sums)?;
        }
        Ok(sums)
    }

    /// The logits with the model's soft-cap, if theirs agree with ours only so: they are from before it.
    fn with_softcap(&mut self, plain: &Sums, measured: &Measured) -> Result<Option<Sums>> {
        let Some(cap) = self.checkpoint.config().stacks[0].final_softcap else { return Ok(None) };
        let differs = |sums: &Sums| {
            let [drift, floor] = [&sums.drift, &sums.floor].map(|sums| sums.metrics().kl_mean_nats);
            !(ratio(drift, floor) <= kl_threshold(sums.drift.kl_nats.len()))
        };
        if plain.words == 0 || !differs(plain) {
            return Ok(None);
        }
        let before = self.texts.clone();
        for rows in self.texts.iter_mut().filter_map(|text| text.planes.get_mut(&Point::Logits)) {
            *rows = rows.capped(cap);
        }
        let capped = self.logit_sums(measured, |_| Ok(()))?;
        if differs(&capped) {
            self.texts = before;
            return Ok(None);
        }
        let text = format!(
            "the logits are from before the model's soft-cap of {cap}, which is put on them here; a model that takes them as they are lacks it"
        );
        self.remarks.push(Remark::warning(RemarkKind::Chosen, text));
        Ok(Some(capped))
    }

    /// The logits' figures; what the head makes of theirs becomes a point like any other.
    fn logits(&mut self, sums: Sums, measured: &mut Measured) -> Option<ComparedLogits> {
        if sums.words == 0 {
            self.untold.push("what becomes of it in the end: there are no logits".into());
            return None;
        }
        if let Some(pair) = sums.same_input {
            let given = self.given();
            let inputs = self.graph(&given).inputs(Point::Logits);
            let point =
                PointSums { accumulated: pair, same_input: Some(pair), inputs, glimpse: None };
            measured.points.insert(Point::Logits, point);
        }
        if sums.masked > 0 {
            let text = format!(
                "{} logits are −∞, which masks their tokens; they are masked in ours too",
                sums.masked
            );
            self.remarks.push(Remark::warning(RemarkKind::Chosen, text));
        }
        let metrics = sums.drift.metrics();
        let floor = (!sums.floor.kl_nats.is_empty()).then(|| sums.floor.metrics());
        let floor_kl = floor.map_or(f64::NAN, |floor| floor.kl_mean_nats);
        let ratio = ratio(metrics.kl_mean_nats, floor_kl);
        // Rounding moves each of two logits by so much, and their gap by the root of 2 times that.
        let noise = sums.floor.logits.metrics().rms * 2f64.sqrt();
        let mut flips = sums.flips;
        for flip in &mut flips {
            flip.tie = flip.token.margins[0] <= 3.0 * noise;
        }
        let whole_vocabulary = self.texts.iter().any(|t| t.planes.contains_key(&Point::Logits));
        Some(ComparedLogits {
            positions: sums.drift.kl_nats.len(),
            words: sums.words,
            whole_vocabulary,
            metrics,
            floor,
            ratio,
            differs: !(ratio <= kl_threshold(sums.drift.kl_nats.len())),
            worst: sums.worst,
            flip_count: sums.drift.flips(),
            flips,
        })
    }

    /// The first point that differs by more than rounding.
    fn guilty(
        &self,
        measured: &Measured,
        activations: &[ActivationReading],
        logits: Option<&ComparedLogits>,
    ) -> Option<Guilty> {
        for (&point, sums) in &measured.points {
            let floor = self.least_floor(&sums.inputs);
            if let (None, Some(glimpse)) = (&sums.same_input, &sums.glimpse) {
                let distance = glimpse.pair.distance(floor);
                if self.allowance(point).exceeded_by(distance.ratio / FEW_NUMBERS) {
                    let (ratio, floor) = (distance.ratio, distance.floor);
                    let inputs = BTreeSet::new();
                    return Some(Guilty { point, ratio, floor, inputs, reading: None });
                }
            }
            let Some(pair) = &sums.same_input else { continue };
            let distance = pair.distance(floor);
            let reading = activations.iter().find(|reading| {
                reading.differs && point == Point::Layer(reading.layer, Place::Activated)
            });
            let allowance = self.allowance(point);
            let is_read = reading.is_some() && allowance.rule.is_none();
            if is_read || allowance.exceeded_by(distance.ratio) {
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

    /// What rounding a number once does at most: no floor is lower. Weights that are known to be rounded themselves show
    /// in what is computed from the tokens.
    fn least_floor(&self, inputs: &BTreeSet<Point>) -> f64 {
        let unit = unit_roundoff(self.precision.dtype);
        match inputs.is_empty() && self.has_rounded_weights() {
            true => unit.max(unit_roundoff(self.checkpoint.dtype())),
            false => unit,
        }
    }

    /// Whether theirs are our weights rounded, or ours theirs: by their hash, or in a format that stores no half types.
    fn has_rounded_weights(&self) -> bool {
        let framework = self.theirs.metadata.get("framework");
        match self.weights {
            Weights::Same => false,
            Weights::Near | Weights::OtherHash => true,
            Weights::Alike | Weights::Unknown => framework.is_some_and(|name| name == "llama.cpp"),
        }
    }

    fn allowance(&self, point: Point) -> Allowance {
        allowance(self.options, point)
    }

    /// Names the mistake at the first point that differs, and another one in what is left.
    fn name(
        &mut self,
        guilty: &Guilty,
        given: &BTreeSet<Point>,
        mut progress: impl FnMut(f64) -> Result<()>,
    ) -> Result<(Vec<Cause>, Vec<Tried>)> {
        let mut model = self.arithmetic.centre(&self.models.ours)?;
        let (mut causes, mut all) = (vec![], vec![]);
        let mut at = (guilty.point, guilty.floor);
        for round in 0..MISTAKES {
            let (point, floor) = at;
            // A bidirectional model sees all of the text at once.
            let causal = self.checkpoint.attention()?.causal;
            let positions = if causal { NAMING_POSITIONS } else { usize::MAX };
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
        Ok((causes, all))
    }

    /// The first point that differs from a model which has a mistake already.
    fn next_guilty(
        &self,
        model: &gemma_mlp::Gemma,
        given: &BTreeSet<Point>,
    ) -> Result<Option<(Point, f64)>> {
        let text = self.texts[0].first(FLOOR_POSITIONS);
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
    fn below_floor(
        &mut self,
        measured: &Measured,
        logits: Option<&ComparedLogits>,
        progress: impl FnMut(f64) -> Result<()>,
    ) -> Result<Vec<BelowFloor>> {
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
        let causal = attention.causal;
        let positions = match (causal, from_tokens) {
            (false, _) => usize::MAX,
            (true, true) => NAMING_POSITIONS,
            (true, false) => FLOOR_POSITIONS,
        };
        let model = self.arithmetic.centre(&self.models.ours)?;
        let segment = Segment::new(&self.texts[0], positions, from_tokens);
        let found = below_floor(&model, &self.arithmetic, &segment, &points, THRESHOLD, progress)?;
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
        Ok(found)
    }

    fn result(
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
            let shown = compared.same_input.or(compared.glimpse.and(compared.accumulated));
            if before && let Some(shown) = shown {
                largest = largest.max(shown.ratio);
                agrees_before = true;
            }
            match point {
                Point::Layer(index, _) if self.reports(index) => match layers.last_mut() {
                    Some(layer) if layer.index == index => layer.points.push(compared),
                    _ => layers.push(ComparedLayer { index, points: vec![compared] }),
                },
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
        let mut before = vec![];
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
            verdict,
            first,
            causes,
            candidates: tried.iter().map(candidate).collect(),
            below_floor,
            theirs: summary,
            ours: Reference::Model(CheckpointSummary::new(self.checkpoint)),
            floor: FloorSummary {
                description: self.arithmetic.description.clone(),
                tokens: self.texts.iter().map(|t| t.tokens.len().min(FLOOR_POSITIONS)).sum(),
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

    fn reports(&self, layer: usize) -> bool {
        self.options.layers.is_empty() || self.options.layers.contains(&layer)
    }

    fn point(&self, point: Point, sums: &PointSums) -> ComparedPoint {
        let floor = self.least_floor(&sums.inputs);
        let allowance = self.allowance(point);
        let same_input = sums.same_input.map(|pair| pair.distance(floor));
        let whole = sums.accumulated.drift.count() > 0;
        let seen = sums.glimpse.map(|glimpse| glimpse.pair.distance(floor));
        let differs = match (same_input, seen) {
            (Some(distance), _) => allowance.exceeded_by(distance.ratio),
            (None, Some(seen)) => allowance.exceeded_by(seen.ratio / FEW_NUMBERS),
            (None, None) => false,
        };
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

    fn summary(&self) -> DumpSummary {
        summary(self.theirs, &self.texts, &self.precision)
    }
}

pub(super) fn summary(dump: &Dump, texts: &[Text], precision: &Precision) -> DumpSummary {
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
        !(ratio <= self.ratio)
    }
}

/// How many times the floor's the mean KL divergence of so many positions may be.
fn kl_threshold(positions: usize) -> f64 {
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

fn ratio(drift: f64, floor: f64) -> f64 {
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
    fn distance(&self, least_floor: f64) -> Distance {
        distance(&self.drift, self.floor.metrics().rel_l2.max(least_floor))
    }

    /// Takes another right model's distance for the floor where it is larger.
    fn widen(&mut self, other: &Self) {
        if other.drift.metrics().rel_l2 > self.floor.metrics().rel_l2 {
            self.floor = other.drift;
        }
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
fn certain(name: &str) -> Cause {
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

fn candidate(tried: &Tried) -> Candidate {
    Candidate {
        name: tried.difference.name.into(),
        cosine: tried.cosine,
        size: tried.size,
        left: tried.left,
        ratio: tried.ratio,
    }
}

fn map(rows: &[Row], points: &BTreeMap<Point, PointSums>, least_floor: f64) -> Option<PositionMap> {
    let positions = rows.iter().map(|row| row.squares.len()).max()?;
    let group = positions.div_ceil(GROUPS).max(1);
    let row = |row: &Row| {
        let pair = points.get(&row.point)?.same_input?;
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
