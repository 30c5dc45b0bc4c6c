//! The result of a drift run: plain data, of which table and JSON are views.

use super::embedding::{EmbeddingMetrics, EmbeddingSums};
use super::layers::{LayerDrift, LayerSums, ResidualDrift, points};
use super::logits::{LogitMetrics, LogitSums};
use super::metrics::{NonFinite, nan_from_null};
use super::options::{DriftOptions, Shard};
use super::origin::Origin;
use super::positions::{Notable, Positions, TokenDrift};
use super::side::Sides;
use super::sums::WindowSums;
use super::verdict::Verdict;
use super::window::Score;
use super::{gradient::GradientDrift, rank::Ranked};
use crate::error::Result;
use crate::input::{InputKind, Texts, source_remark, text_remarks, without_texts};
use candle_core::Device;
use gemma_mlp::Activation;
use gemma_mlp::checkpoint::{Checkpoint, Family, Remark, Resolved};
use serde::{Deserialize, Serialize};

/// The version of the layout that docs/drift.schema.json describes.
pub const SCHEMA: u32 = 6;

/// Tokens of a text that are kept to tell it by.
pub const EXCERPT: usize = 64;

/// The drift between two sides, beside what rounding alone does.
///
/// JSON shows figures that are NaN or infinite as null, and null is read as NaN.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Drift {
    /// What was compared.
    #[serde(flatten)]
    pub header: Header,
    /// By what it was computed.
    pub origin: Origin,
    /// Scored token positions, over all texts and windows.
    pub tokens: usize,
    /// Whether all windows of the texts are in.
    pub complete: bool,
    /// Per layer, on one input.
    pub layers: Vec<LayerDrift>,
    /// Per layer, accumulated; empty where the whole model does not run.
    pub residual: Vec<ResidualDrift>,
    /// Of the logits; `None` where the whole model does not run, or has no head.
    pub logits: Option<LogitMetrics>,
    /// Of hidden states and embeddings, in an encoder without a head; else `None`.
    pub embedding: Option<EmbeddingMetrics>,
    /// The pair that differs by rounding alone.
    pub floor: Floor,
    /// Of the logits, along the text; `None` where there are none.
    pub positions: Option<Positions>,
    /// The positions of the largest KL divergence, the largest first.
    pub worst: Vec<TokenDrift>,
    /// At how many positions the likeliest token changes.
    pub flip_count: usize,
    /// Those positions, the most decided ones of side a first; at most 32.
    pub flips: Vec<TokenDrift>,
    /// b against the floor's a, over the floor's b against it: how much farther than the
    /// reference's own low precision the candidate is from the high-precision result.
    pub r_ratio: Option<RRatio>,
    /// The first layer whose block drifts more than its floor.
    pub first_above_floor: Option<usize>,
    /// The first layer where a side is not finite.
    pub first_nonfinite: Option<usize>,
    /// What follows from the figures.
    pub verdict: Verdict,
    /// Of the loss's gradients, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none", flatten)]
    pub gradients: Option<GradientDrift>,
    /// Porting differences by size, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ranking: Option<Vec<Ranked>>,
    /// The sums of this part, if it is not the whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) part: Option<Part>,
}

/// Figures of the pair that differs by rounding alone, beyond those of the layers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Floor {
    /// The scored positions of it.
    pub tokens: usize,
    /// Of the logits.
    pub logits: Option<LogitMetrics>,
    /// Of hidden states and embeddings.
    pub embedding: Option<EmbeddingMetrics>,
}

/// Ratios of distances to the high-precision result.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct RRatio {
    /// Of the logits' relative L2.
    #[serde(deserialize_with = "nan_from_null")]
    pub rel_l2: f64,
    /// Of the mean KL divergence.
    #[serde(deserialize_with = "nan_from_null")]
    pub kl_mean: f64,
}

/// What a drift was measured on, and how.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Header {
    /// Version of this layout.
    #[cfg_attr(feature = "schemars", schemars(extend("const" = SCHEMA)))]
    pub schema: u32,
    /// The version of this crate.
    pub version: String,
    /// What was measured on.
    pub checkpoint: CheckpointSummary,
    /// The pair, b against a.
    pub sides: Sides,
    /// The pair that differs by rounding alone.
    pub floor_sides: Sides,
    /// How many texts there were.
    pub texts: usize,
    /// Into how many windows they were cut.
    pub windows: usize,
    /// The longest window, in tokens.
    pub window: usize,
    /// By how many tokens one window ends behind the one before it.
    pub stride: usize,
    /// Which positions of the windows count.
    pub score: Score,
    /// How many of a window's first tokens the floor is measured on.
    pub floor_tokens: usize,
    /// Why the whole model does not run, and its blocks alone were compared, on noise; null where it
    /// runs.
    pub blocks_only: Option<String>,
    /// How many GELUs follow the switch, in all layers together: each block's, and those of experts and of per-layer
    /// inputs where a layer has them; the blocks' alone where the whole model does not run.
    pub gates: usize,
    /// How the first text begins; `None` without a tokenizer.
    pub excerpt: Option<String>,
    /// Where it was computed.
    pub device: String,
    /// The layers that are reported, by name.
    pub(super) blocks: Vec<(usize, String)>,
    /// What is not used, was guessed, or is odd.
    #[cfg_attr(feature = "schemars", schemars(with = "Vec<RemarkSchema>"))]
    pub remarks: Vec<Remark>,
}

/// The checkpoint as reports name it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct CheckpointSummary {
    /// Where it comes from.
    pub source: String,
    /// Its family.
    #[cfg_attr(feature = "schemars", schemars(with = "String"))]
    pub family: Family,
    /// `model_type` of its config.
    pub model_type: String,
    /// The dtype of its MLP weights.
    pub dtype: String,
    /// How many MLP blocks it has.
    pub blocks: usize,
    /// What its config means the activation to be, with the reason.
    #[cfg_attr(feature = "schemars", schemars(with = "ResolvedActivation"))]
    pub activation: Resolved<Activation>,
}

/// The JSON of a resolved activation, as the schema describes it.
#[cfg(feature = "schemars")]
#[derive(schemars::JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct ResolvedActivation {
    /// The activation.
    value: String,
    /// Why it is meant.
    reason: String,
}

/// The JSON of a remark, as the schema describes it.
#[cfg(feature = "schemars")]
#[derive(schemars::JsonSchema)]
#[schemars(rename = "Remark")]
#[expect(dead_code, reason = "only its schema is used")]
pub(crate) struct RemarkSchema {
    /// What it is about: `unused`, `unusual`, `chosen`, `weights`, `text`.
    kind: String,
    /// How much it matters: `note` or `warning`.
    level: String,
    /// One sentence.
    text: String,
}

/// The sums of all windows that are there.
struct RunSums {
    layers: Vec<LayerSums>,
    logits: Option<[LogitSums; 3]>,
    embedding: Option<[EmbeddingSums; 2]>,
    tokens: usize,
    floor_tokens: usize,
    notable: Notable,
    positions: Option<Positions>,
}

/// What is added up with the other parts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub(super) struct Part {
    /// Which of the windows it has.
    pub(super) shard: Shard,
    /// The other parts that were merged into it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) also: Vec<usize>,
    pub(super) windows: Vec<WindowSums>,
}

impl Part {
    /// Notes that other parts were merged into it. It goes by the least index of all, so that their order leaves no trace.
    pub(super) fn take_in(&mut self, index: usize, also: Vec<usize>) {
        self.also.extend(also.into_iter().chain([index, self.shard.index]));
        self.also.sort_unstable();
        self.also.dedup();
        self.shard.index = self.also.remove(0);
    }
}

impl CheckpointSummary {
    /// The summary of an open checkpoint.
    pub fn new(checkpoint: &Checkpoint) -> Self {
        let config = checkpoint.config();
        Self {
            source: checkpoint.source().to_string(),
            family: config.family,
            model_type: config.model_type.clone(),
            dtype: checkpoint.dtype().as_str().to_string(),
            blocks: checkpoint.blocks().len(),
            activation: config.decoder().activation.clone(),
        }
    }
}

impl Header {
    pub(super) fn new(
        checkpoint: &Checkpoint,
        options: &DriftOptions,
        device: &Device,
        texts: &Texts,
        windows: usize,
    ) -> Result<Self> {
        let mut remarks = checkpoint.remarks().to_vec();
        remarks.extend(options.windowing.remarks(texts));
        let mut blocks = vec![];
        for &index in &options.layers {
            let block = checkpoint.block(index)?;
            blocks.push((index, block.name.clone()));
            remarks.extend(block.nonfinite(checkpoint.tensors())?);
        }
        let begins = texts.iter().find(|text| !text.is_empty());
        let begins = begins.map_or(&[][..], |text| &text[..text.len().min(EXCERPT)]);
        let longest = texts.iter().map(<[u32]>::len).max().unwrap_or_default();
        let at_once = longest.min(options.windowing.window);
        remarks.extend(text_remarks(checkpoint, texts.iter(), at_once));
        remarks.extend(texts.sources().and_then(|sources| source_remark(checkpoint, sources)));
        remarks.extend(without_texts(checkpoint, begins));
        let device = match device {
            Device::Cpu => "cpu",
            Device::Cuda(_) => "cuda",
            Device::Metal(_) => "metal",
        };
        Ok(Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION").to_string(),
            checkpoint: CheckpointSummary::new(checkpoint),
            sides: options.sides,
            floor_sides: options.floor_sides,
            texts: texts.len(),
            windows,
            window: options.windowing.window,
            stride: options.windowing.stride,
            score: options.windowing.score,
            floor_tokens: options.floor_tokens,
            blocks_only: None,
            gates: checkpoint.blocks().len(),
            excerpt: checkpoint.decode(begins).ok(),
            device: device.to_string(),
            blocks,
            remarks,
        })
    }
}

impl Drift {
    /// The figures of a part's windows, in the order of the text.
    pub(super) fn new(header: Header, origin: Origin, mut part: Part) -> Self {
        part.windows.sort_by_key(|window| window.index);
        let windows = &part.windows;
        let mut layers = vec![LayerSums::default(); header.blocks.len()];
        let mut logits: Option<[LogitSums; 3]> = None;
        let mut embedding: Option<[EmbeddingSums; 2]> = None;
        let (mut notable, mut tokens, mut floor_tokens) = (Notable::default(), 0, 0);
        for window in windows {
            notable.merge(&window.notable, tokens);
            tokens += window.positions;
            floor_tokens += window.floor_positions;
            layers.iter_mut().zip(&window.layers).for_each(|(sums, other)| sums.merge(other));
            if let Some(other) = &window.logits {
                let sums = logits.get_or_insert_default();
                sums.iter_mut().zip(other).for_each(|(sums, other)| sums.merge(other));
            }
        }
        for other in windows.iter().filter_map(|window| window.embedding.as_ref()) {
            let sums = embedding.get_or_insert_default();
            sums.iter_mut().zip(other).for_each(|(sums, other)| sums.merge(other));
        }
        let complete = windows.len() == header.windows;
        let positions = logits
            .is_some()
            .then(|| Positions::of(windows.iter().filter_map(|window| window.logits.as_ref())));
        let sums = RunSums { layers, logits, embedding, tokens, floor_tokens, notable, positions };
        Self::from_sums(header, origin, sums, (!complete).then_some(part))
    }

    fn from_sums(header: Header, origin: Origin, sums: RunSums, part: Option<Part>) -> Self {
        let RunSums { layers: sums, logits, embedding, tokens, floor_tokens, notable, positions } =
            sums;
        let whole_model = header.blocks_only.is_none();
        let input = if whole_model { InputKind::Model } else { InputKind::Gaussian };
        let named = || header.blocks.iter().zip(&sums);
        let layer = |((index, name), sums): (&(usize, String), &LayerSums)| LayerDrift {
            index: *index,
            name: name.clone(),
            input,
            drift: points(&sums.drift),
            floor: points(&sums.floor),
            gates: sums.gates.clone(),
        };
        let residual = |((index, _), sums): (&(usize, String), &LayerSums)| ResidualDrift {
            index: *index,
            rel_l2: sums.residual.metrics().rel_l2,
            floor_rel_l2: sums.floor_residual.metrics().rel_l2,
        };
        let layers: Vec<_> = named().map(layer).collect();
        let flip_count = logits.as_ref().map_or(0, |[pair, ..]| pair.flips());
        let mut nonfinite = [NonFinite::default(); 2];
        for other in sums.iter().map(|sums| sums.nonfinite(whole_model)).chain(
            logits.iter().map(|[pair, floor, _]| [pair, floor].map(|l| l.logits.nonfinite())),
        ) {
            nonfinite.iter_mut().zip(other).for_each(|(all, other)| *all = all.or(other));
        }
        let [logits, floor, golden] = match logits {
            Some(logits) => logits.map(|sums| Some(sums.metrics())),
            None => [None; 3],
        };
        let [embedding, floor_embedding] = match embedding {
            Some(sums) => sums.map(|sums| Some(sums.metrics())),
            None => [None; 2],
        };
        let above = |l: &&LayerDrift| l.drift.output.rel_l2 > l.floor.output.rel_l2;
        let first_nonfinite =
            named().find(|(_, sums)| !sums.is_finite()).map(|((index, _), _)| *index);
        Self {
            tokens,
            complete: part.is_none(),
            residual: if whole_model { named().map(residual).collect() } else { vec![] },
            first_above_floor: layers.iter().find(above).map(|layer| layer.index),
            first_nonfinite,
            verdict: Verdict::new(
                tokens,
                &layers,
                logits.zip(floor),
                embedding.zip(floor_embedding),
                nonfinite,
            ),
            r_ratio: golden.zip(floor).map(|(golden, floor)| RRatio {
                rel_l2: golden.rel_l2 / floor.rel_l2,
                kl_mean: golden.kl_mean_nats / floor.kl_mean_nats,
            }),
            layers,
            logits,
            embedding,
            floor: Floor { tokens: floor_tokens, logits: floor, embedding: floor_embedding },
            positions,
            worst: notable.worst,
            flip_count,
            flips: notable.flips,
            origin,
            gradients: None,
            ranking: None,
            part,
            header,
        }
    }
}
