//! A dump against our own model of a checkpoint.

mod causes;
mod ends;
mod guilty;
mod report;

use super::activation;
use super::align::{Aligned, Text, align, refused};
use super::arithmetic::Arithmetic;
use super::checks::{TokenFault, WEIGHTS, Weights, check_tokens, check_weights, odd_planes};
use super::dump::Dump;
use super::graph::Graph;
use super::logits::Sums;
use super::measure::{Measured, measure};
use super::models::Models;
use super::options::CompareOptions;
use super::pair::Pair;
use super::point::{Place, Point};
use super::precision::Precision;
use super::result::{ActivationReading, Comparison};
use super::rule::{Allowance, allowance};
use crate::error::{Error, Result};
use candle_core::Device;
use gemma_mlp::Checkpoint;
use gemma_mlp::checkpoint::{Remark, RemarkKind};
use gemma_mlp::model::Attention;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

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
    let Aligned { texts, mut remarks } = align(theirs, checkpoint)?;
    let precision = Precision::of_dump(theirs, options.dtype)?;
    let (metadata, like) = (&theirs.metadata, options.like_theirs);
    let arithmetic = Arithmetic::of(metadata, precision.dtype, checkpoint, like)?;
    let (models, of_arithmetic) = Models::load(checkpoint, &arithmetic, device)?;
    let models = models.having(&options.with)?;
    remarks.extend(of_arithmetic);
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
        if self.arithmetic.in_ours {
            even_out_flips(&mut measured);
        }
        let references = self.widen_by_references(&mut measured, &given)?;
        self.final_norms(&mut measured)?;
        let mut sums =
            self.logit_sums(&self.texts, &measured, |done| progress(0.45 + 0.25 * done))?;
        if let Some(capped) = self.with_softcap(&sums, &measured)? {
            sums = capped;
        }
        if let Some(farthest) = references {
            sums.widen_floor(farthest);
        }
        let logits = self.logits(sums, &mut measured);
        let guilty = self.guilty(&measured, &activations, logits.as_ref());
        let searched = |done: f64| progress(0.7 + 0.3 * done);
        let named = match &guilty {
            Some(guilty) => self.name(guilty, &given, searched)?,
            None => self.look_below_floor(&measured, logits.as_ref(), searched)?,
        };
        self.result(fault, measured, activations, logits, guilty, named)
    }

    /// The mistakes that were put into ours, as a sentence's beginning.
    fn put_in(&self) -> Option<String> {
        let names: Vec<_> = self.options.with.iter().map(|m| format!("\"{}\"", m.name)).collect();
        (!names.is_empty()).then(|| format!("With {} put into ours:", names.join(", ")))
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
            self.remarks.extend(odd_planes(self.theirs, text, self.checkpoint.config())?);
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

    /// What is computed from what, where some points are given.
    fn graph<'g>(&self, given: &'g BTreeSet<Point>) -> Graph<'g> {
        let layers = self.models.ours.layers();
        Graph {
            shares: layers
                .iter()
                .map(|layer| layer.attention().and_then(Attention::shares))
                .collect(),
            experts: layers.iter().any(|layer| layer.experts().is_some()),
            per_layer: layers.iter().any(|layer| layer.per_layer().is_some()),
            given,
        }
    }

    /// Runs all layers, and reads the activations on the way.
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
                // A gate that is made sparse is no longer what the activation is taken of.
                if let (Some(gate), Some(activated)) = (gate, activated)
                    && own.mlp().sparsity().is_none()
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

    /// Adds what other frameworks' right models do to the floor; returns the logits of the one that is farthest
    /// from ours there.
    fn widen_by_references(
        &self,
        measured: &mut Measured,
        given: &BTreeSet<Point>,
    ) -> Result<Option<Sums>> {
        let mut farthest: Option<Sums> = None;
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
            let sums = self.logit_sums(&texts, &other, |_| Ok(()))?;
            let kl = |sums: &Sums| sums.drift.metrics().kl_mean_nats;
            if sums.words > 0 && farthest.as_ref().is_none_or(|known| kl(&sums) > kl(known)) {
                farthest = Some(sums);
            }
        }
        Ok(farthest)
    }

    /// How far a point may be.
    fn allowance(&self, point: Point) -> Allowance {
        allowance(self.options, point)
    }
}

/// Where ours rounds like theirs, the heads' outputs, which no dump has, are rounded on attention's way to its own. A number
/// that f32 moves across a step there is rare and far: whether a layer's floor has one is luck, and what it does is the same
/// in all. So the largest floor of all layers counts, and twice as much of it.
fn even_out_flips(measured: &mut Measured) {
    let is_one = |point: &Point| matches!(point, Point::Layer(_, Place::AttnOutput));
    let rel_l2 = |pair: &Pair| pair.floor.metrics().rel_l2;
    let all = measured.points.iter().filter(|(point, _)| is_one(point));
    let floors = all.filter_map(|(_, sums)| sums.same_input);
    let Some(largest) = floors.max_by(|a, b| rel_l2(a).total_cmp(&rel_l2(b))) else { return };
    for (_, sums) in measured.points.iter_mut().filter(|(point, _)| is_one(point)) {
        sums.same_input.iter_mut().for_each(|pair| pair.floor = largest.floor);
        sums.scatters = true;
    }
}
