//! What lies behind the last layer: the final norm and the logits.

use super::Run;
use crate::compare::align::Text;
use crate::compare::glimpses::glimpse;
use crate::compare::logits::{Heads, Sums};
use crate::compare::measure::{Measured, PointSums, Streams, floor_positions};
use crate::compare::models::{Models, logits};
use crate::compare::point::{Place, Point};
use crate::compare::result::ComparedLogits;
use crate::compare::rule::{kl_threshold, ratio};
use crate::drift::Accumulator;
use crate::error::{Error, Result};
use candle_core::Tensor;
use gemma_mlp::Gemma;
use gemma_mlp::checkpoint::{Remark, RemarkKind};
use std::collections::BTreeMap;

impl Run<'_> {
    /// Whether what a dump calls the last residual stream is that behind the final norm, as the last of transformers'
    /// `hidden_states` is; then it is taken for that.
    pub(super) fn last_is_normed(&mut self, measured: &Measured) -> Result<bool> {
        let last = self.checkpoint.blocks().len() - 1;
        let point = Point::Layer(last, Place::Hidden);
        let Some(rows) = self.texts[0].planes.get(&point) else { return Ok(false) };
        if rows.len() == 0 || self.texts[0].planes.contains_key(&Point::Normed) {
            return Ok(false);
        }
        let theirs = rows.all()?.to_device(self.device)?.unsqueeze(0)?;
        if theirs.dim(2)? != self.checkpoint.config().stacks[0].hidden_size {
            return Ok(false); // several streams, which no norm is behind
        }
        let first = self.texts[0].tokens.len() - rows.len();
        let stream = measured.streams[0].ours.stream.narrow(1, first, rows.len())?;
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

    /// Adds the final norm, and the last projection where there is one.
    pub(super) fn final_norms(&self, measured: &mut Measured) -> Result<()> {
        let Models { ours, beside } = &self.models;
        for (text, streams) in self.texts.iter().zip(&measured.streams) {
            self.glimpse_ends(text, streams, &mut measured.points)?;
            let norms = |a: &_, b: &_| Ok::<_, Error>([ours.final_norm(a)?, beside.final_norm(b)?]);
            let normed = norms(&streams.ours.stream, &streams.beside.stream)?;
            let local = match &streams.local {
                Some([local, beside]) => Some(norms(&local.stream, &beside.stream)?),
                None => None,
            };
            self.end(text, Point::Normed, &normed, local.as_ref(), &mut measured.points)?;
            let projected = |[a, b]: &[Tensor; 2]| {
                Ok::<_, Error>([ours.embedding_states(a)?, beside.embedding_states(b)?])
            };
            // Of theirs, where it is there.
            let local = match text.planes.get(&Point::Normed) {
                Some(rows) if rows.is_whole(text.tokens.len()) => {
                    let theirs = rows.all()?.unsqueeze(0)?.to_device(self.device)?;
                    let some = theirs.narrow(1, 0, normed[1].dim(1)?)?;
                    Some([theirs.to_dtype(ours.dtype())?, some.to_dtype(beside.dtype())?])
                }
                _ => local,
            };
            let local = local.as_ref().map(projected).transpose()?;
            let own = projected(&normed)?;
            self.end(text, Point::Projected, &own, local.as_ref(), &mut measured.points)?;
        }
        Ok(())
    }

    /// Adds a point behind the last layer, if it is there: from what ours and the model beside it make of the tokens,
    /// and of theirs.
    fn end(
        &self,
        text: &Text,
        point: Point,
        [a, b]: &[Tensor; 2],
        local: Option<&[Tensor; 2]>,
        points: &mut BTreeMap<Point, PointSums>,
    ) -> Result<()> {
        let Some(rows) = text.planes.get(&point) else { return Ok(()) };
        let theirs = rows.all()?.unsqueeze(0)?.to_device(self.device)?;
        let first = text.tokens.len() - rows.len();
        let sums = points.entry(point).or_default();
        sums.accumulated.add(&self.models, a, b, &theirs, first)?;
        sums.same_input = match local {
            Some([a, b]) if rows.is_whole(text.tokens.len()) => {
                let mut pair = sums.same_input.unwrap_or_default();
                pair.add(&self.models, a, b, &theirs, 0)?;
                Some(pair)
            }
            _ => Some(sums.accumulated),
        };
        Ok(())
    }

    /// Adds a few printed numbers behind the last layer.
    pub(super) fn glimpse_ends(
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
        let normed =
            [ours.final_norm(&streams.ours.stream)?, beside.final_norm(&streams.beside.stream)?];
        add(Point::Normed, &normed[0], &normed[1])?;
        if text.glimpses.contains_key(&Point::Logits)
            && text.tokens.len() == floor_positions(ours, text.tokens.len())
        {
            let last = |gemma: &Gemma, x: &Tensor| -> Result<Tensor> {
                let head = gemma.head().ok_or(Error::NoHead { lacks: "has no logits" })?;
                logits(head, &x.squeeze(0)?.narrow(0, text.tokens.len() - 1, 1)?)
            };
            add(Point::Logits, &last(ours, &normed[0])?, &last(beside, &normed[1])?)?;
        }
        Ok(())
    }

    pub(super) fn logit_sums(
        &self,
        texts: &[Text],
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
        for (text, streams) in texts.iter().zip(&measured.streams) {
            heads.add(text, streams, &mut sums, &mut progress)?;
            heads.add_likeliest(text, streams, &mut sums)?;
        }
        Ok(sums)
    }

    /// The logits with the model's soft-cap, if theirs agree with ours only so: they are from before it.
    pub(super) fn with_softcap(
        &mut self,
        plain: &Sums,
        measured: &Measured,
    ) -> Result<Option<Sums>> {
        let Some(cap) = self.checkpoint.config().stacks[0].final_softcap else { return Ok(None) };
        let differs = |sums: &Sums| {
            let [drift, floor] = [&sums.drift, &sums.floor].map(|sums| sums.metrics().kl_mean_nats);
            let ratio = ratio(drift, floor);
            ratio.is_nan() || ratio > kl_threshold(sums.drift.kl_nats.len())
        };
        if plain.words == 0 || !differs(plain) {
            return Ok(None);
        }
        let before = self.texts.clone();
        for rows in self.texts.iter_mut().filter_map(|text| text.planes.get_mut(&Point::Logits)) {
            *rows = rows.capped(cap);
        }
        let capped = self.logit_sums(&self.texts, measured, |_| Ok(()))?;
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
    pub(super) fn logits(&mut self, sums: Sums, measured: &mut Measured) -> Option<ComparedLogits> {
        if sums.words == 0 {
            self.untold.push("what becomes of it in the end: there are no logits".into());
            return None;
        }
        if let Some(pair) = sums.same_input {
            let given = self.given();
            let inputs = self.graph(&given).inputs(Point::Logits);
            let point = PointSums {
                accumulated: pair,
                same_input: Some(pair),
                inputs,
                ..PointSums::default()
            };
            measured.points.insert(Point::Logits, point);
        }
        self.remarks.extend(sums.masked.remarks(["theirs", "ours"]));
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
            differs: ratio.is_nan() || ratio > kl_threshold(sums.drift.kl_nats.len()),
            worst: sums.worst,
            flip_count: sums.drift.flips(),
            flips,
        })
    }
}
