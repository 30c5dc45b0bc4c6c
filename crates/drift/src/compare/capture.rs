//! What our own model computes, as a dump.

use super::checks::{WEIGHTS, first_mlp_sha256};
use super::layer_pass::{Flow, LayerPass, Values, has};
use super::point::{Place, Point};
use crate::dump_file;
use crate::error::{Error, Result};
use crate::input::{TokenIds, text_remarks};
use candle_core::{DType, Device, Tensor};
use gemma_mlp::checkpoint::{Remark, Resolved};
use gemma_mlp::{Activation, Checkpoint, Gemma};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::ControlFlow;

/// The version of the format, as its metadata names it.
pub const FORMAT: &str = "gemma-mlp-dump/1";

/// What to capture.
pub struct CaptureOptions<'a> {
    /// The activation; `None` for what the config means.
    pub activation: Option<Activation>,
    /// What to compute in.
    pub dtype: DType,
    /// Which layers to keep, by index; empty for all.
    pub layers: Vec<usize>,
    /// Which points to keep.
    pub points: &'a dyn Fn(Point) -> bool,
}

/// A dump of our own.
pub struct Capture {
    /// What is in it.
    pub summary: CaptureSummary,
    /// By the names of the format.
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<&'static str, String>,
}

/// What a dump of our own holds.
#[derive(Debug, Clone, Serialize)]
pub struct CaptureSummary {
    /// Where the checkpoint comes from.
    pub checkpoint: String,
    /// What was computed in.
    pub dtype: String,
    /// The activation that was run, with the reason.
    pub activation: Resolved<Activation>,
    /// How many texts.
    pub texts: usize,
    /// How many tokens each has.
    pub tokens: usize,
    /// Points by their name within a layer, and in how many layers each was kept.
    pub points: Vec<(String, usize)>,
    /// About the checkpoint and the texts.
    pub remarks: Vec<Remark>,
}

/// Runs a checkpoint on token ids and keeps what it computes, point by point, `[batch, positions, …]`.
///
/// `progress` is called with the fraction that is done; returning [`ControlFlow::Break`] ends the run with
/// [`Error::Stopped`].
///
/// # Errors
/// A family whose whole model does not run here, an id out of the vocabulary, a file that changed.
pub fn capture(
    checkpoint: &Checkpoint,
    ids: &TokenIds,
    options: &CaptureOptions,
    device: &Device,
    mut progress: impl FnMut(f64) -> ControlFlow<()>,
) -> Result<Capture> {
    ids.check(checkpoint.config().stacks[0].vocab_size)?;
    for &layer in &options.layers {
        checkpoint.block(layer)?;
    }
    let mut gemma = Gemma::load(checkpoint, device, options.dtype)?;
    let activation = match options.activation {
        Some(value) => {
            gemma = gemma.with_activation(value);
            Resolved { value, reason: "asked for".into() }
        }
        None => checkpoint.config().stacks[0].activation.clone(),
    };
    let mut kept = Kept { options, points: BTreeMap::new() };
    let tokens = ids.tensor(device)?;
    let mut flow = Flow::begin(&gemma, &tokens)?;
    kept.keep(Point::Embedding, || Ok(flow.stream.clone()))?;
    let nothing = Values::new();
    for (index, layer) in gemma.layers().iter().enumerate() {
        let mut pass = LayerPass::new(layer, options.dtype, &flow, &nothing);
        for place in Place::ALL.into_iter().filter(|&place| has(layer, place)) {
            kept.keep(Point::Layer(index, place), || pass.computed(place))?;
        }
        let left = pass.leave()?;
        flow.follow(left);
        if progress((index + 1) as f64 / gemma.layers().len() as f64).is_break() {
            return Err(Error::Stopped);
        }
    }
    let normed = gemma.final_norm(&flow.stream)?;
    kept.keep(Point::Normed, || Ok(normed.clone()))?;
    if checkpoint.config().stacks[0].embedding_dim.is_some() {
        kept.keep(Point::Projected, || Ok(gemma.embedding_states(&normed)?))?;
    }
    if gemma.head().is_some() {
        kept.keep(Point::Logits, || Ok(gemma.logits(&normed)?))?;
    }
    let mut remarks = checkpoint.remarks().to_vec();
    remarks.extend(text_remarks(checkpoint, ids.texts(), ids.seq_len()));
    let metadata = [
        ("format", FORMAT.to_string()),
        ("framework", "gemma-mlp".to_string()),
        ("framework_version", env!("CARGO_PKG_VERSION").to_string()),
        ("device", if device.is_cpu() { "cpu" } else { "gpu" }.to_string()),
        ("model", checkpoint.source().to_string()),
        ("dtype", options.dtype.as_str().to_string()),
        ("activation", activation.value.to_string()),
        ("phase", "prefill".to_string()),
        (WEIGHTS, first_mlp_sha256(checkpoint)?),
    ];
    let summary = CaptureSummary {
        checkpoint: checkpoint.source().to_string(),
        dtype: options.dtype.as_str().into(),
        activation,
        texts: ids.batch(),
        tokens: ids.seq_len(),
        points: counts(kept.points.keys().copied()),
        remarks,
    };
    let named = kept.points.into_iter().map(|(point, tensor)| (point.to_string(), tensor));
    let tensors = named.chain([("tokens".to_string(), tokens)]).collect();
    Ok(Capture { summary, tensors, metadata: metadata.into() })
}

/// Points by their name within a layer, and how many of each there are.
pub(super) fn counts(points: impl Iterator<Item = Point>) -> Vec<(String, usize)> {
    let mut counts: Vec<(String, usize)> = vec![];
    for point in points {
        match counts.iter_mut().find(|(name, _)| name == point.place()) {
            Some((_, count)) => *count += 1,
            None => counts.push((point.place().into(), 1)),
        }
    }
    counts
}

/// The points so far.
struct Kept<'a> {
    options: &'a CaptureOptions<'a>,
    points: BTreeMap<Point, Tensor>,
}

impl Kept<'_> {
    /// Keeps a point that is wanted; others are not computed for it.
    fn keep(&mut self, point: Point, value: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        let layers = &self.options.layers;
        let of_layer = point.layer().is_none_or(|n| layers.is_empty() || layers.contains(&n));
        if of_layer && (self.options.points)(point) {
            self.points.insert(point, value()?);
        }
        Ok(())
    }
}

impl Capture {
    /// Writes the dump as one safetensors file. Equal dumps make equal bytes.
    ///
    /// # Errors
    /// The writer's; candle's, as [`io::ErrorKind::Other`], if a tensor cannot be copied from its device.
    pub fn write_to(&self, to: impl Write) -> io::Result<()> {
        let tensors = self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        dump_file::write(tensors, self.metadata.clone(), to)
    }
}
