//! Reading a saved report.
//!
//! What is written with serde's `flatten` is read without it, field by field: `flatten` would hold
//! everything that it does not know at 32 bytes a number first.

use super::embedding::EmbeddingMetrics;
use super::gates::GateHistogram;
use super::gradient::{BlockGradients, GradientDrift, GradientMetrics, LayerGradients};
use super::layers::{BlockPoints, LayerDrift, ResidualDrift};
use super::logits::LogitMetrics;
use super::metrics::Metrics;
use super::origin::Origin;
use super::positions::{Positions, TokenDrift, some_pair_from_nulls};
use super::rank::Ranked;
use super::result::{CheckpointSummary, Drift, Floor, Header, Part, RRatio, SCHEMA};
use super::side::Sides;
use super::verdict::Verdict;
use super::window::Score;
use crate::error::{Error, InvalidReport, Result};
use crate::input::InputKind;
use gemma_mlp::checkpoint::Remark;
use serde::Deserialize as Read;
use serde::de::{Deserialize, Deserializer, Error as _};

impl Drift {
    /// Reads the JSON of a drift, as serde writes it; a byte order mark in front is skipped. `name` is
    /// for messages.
    ///
    /// # Errors
    /// A text that is no such report, or of another version's layout.
    pub fn from_json(name: &str, json: &str) -> Result<Self> {
        #[derive(Read)]
        struct Version {
            schema: u32,
        }
        let json = json.strip_prefix('\u{feff}').unwrap_or(json);
        let refused = |reason| Err(Error::Report { name: name.into(), reason });
        let read = serde_json::from_str::<Self>(json);
        let schema = match &read {
            Ok(drift) => Some(drift.header.schema),
            Err(_) => serde_json::from_str(json).ok().map(|Version { schema }| schema),
        };
        match (schema, read) {
            (Some(schema), _) if schema != SCHEMA => {
                refused(InvalidReport::Layout { schema, reads: SCHEMA })
            }
            (_, Err(error)) => refused(InvalidReport::Malformed(error.to_string())),
            (_, Ok(drift)) => Ok(drift),
        }
    }
}

impl<'de> Deserialize<'de> for Drift {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        /// Everything side by side, as the report has it.
        #[derive(Read)]
        struct Flat {
            schema: u32,
            version: String,
            checkpoint: CheckpointSummary,
            sides: Sides,
            floor_sides: Sides,
            texts: usize,
            windows: usize,
            window: usize,
            stride: usize,
            score: Score,
            floor_tokens: usize,
            blocks_only: Option<String>,
            gates: usize,
            excerpt: Option<String>,
            device: String,
            blocks: Vec<(usize, String)>,
            remarks: Vec<Remark>,
            origin: Origin,
            tokens: usize,
            complete: bool,
            layers: Vec<LayerDrift>,
            residual: Vec<ResidualDrift>,
            logits: Option<LogitMetrics>,
            embedding: Option<EmbeddingMetrics>,
            floor: Floor,
            positions: Option<Positions>,
            worst: Vec<TokenDrift>,
            flip_count: usize,
            flips: Vec<TokenDrift>,
            r_ratio: Option<RRatio>,
            first_above_floor: Option<usize>,
            first_nonfinite: Option<usize>,
            verdict: Verdict,
            gradient_tokens: Option<usize>,
            #[serde(default, deserialize_with = "some_pair_from_nulls")]
            loss: Option<[f64; 2]>,
            input_gradient: Option<GradientMetrics>,
            gradients: Option<Vec<LayerGradients>>,
            ranking: Option<Vec<Ranked>>,
            part: Option<Part>,
        }
        let flat = Flat::deserialize(json)?;
        let gradients = (flat.gradient_tokens, flat.loss, flat.input_gradient, flat.gradients);
        let gradients = match gradients {
            (None, None, None, None) => None,
            (Some(gradient_tokens), Some(loss), Some(input_gradient), Some(gradients)) => {
                Some(GradientDrift { gradient_tokens, loss, input_gradient, gradients })
            }
            _ => return Err(D::Error::custom("only a part of what says how gradients differ")),
        };
        Ok(Self {
            header: Header {
                schema: flat.schema,
                version: flat.version,
                checkpoint: flat.checkpoint,
                sides: flat.sides,
                floor_sides: flat.floor_sides,
                texts: flat.texts,
                windows: flat.windows,
                window: flat.window,
                stride: flat.stride,
                score: flat.score,
                floor_tokens: flat.floor_tokens,
                blocks_only: flat.blocks_only,
                gates: flat.gates,
                excerpt: flat.excerpt,
                device: flat.device,
                blocks: flat.blocks,
                remarks: flat.remarks,
            },
            origin: flat.origin,
            tokens: flat.tokens,
            complete: flat.complete,
            layers: flat.layers,
            residual: flat.residual,
            logits: flat.logits,
            embedding: flat.embedding,
            floor: flat.floor,
            positions: flat.positions,
            worst: flat.worst,
            flip_count: flat.flip_count,
            flips: flat.flips,
            r_ratio: flat.r_ratio,
            first_above_floor: flat.first_above_floor,
            first_nonfinite: flat.first_nonfinite,
            verdict: flat.verdict,
            gradients,
            ranking: flat.ranking,
            part: flat.part,
        })
    }
}

impl<'de> Deserialize<'de> for LayerDrift {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        #[derive(Read)]
        struct Flat {
            index: usize,
            name: String,
            input: InputKind,
            activation: Metrics,
            product: Metrics,
            output: Metrics,
            floor: BlockPoints,
            gates: GateHistogram,
        }
        let Flat { index, name, input, activation, product, output, floor, gates } =
            Flat::deserialize(json)?;
        let drift = BlockPoints { activation, product, output };
        Ok(Self { index, name, input, drift, floor, gates })
    }
}

impl<'de> Deserialize<'de> for LayerGradients {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        #[derive(Read)]
        struct Flat {
            index: usize,
            gate_proj: GradientMetrics,
            up_proj: GradientMetrics,
            down_proj: GradientMetrics,
            per_layer_input_gate: Option<GradientMetrics>,
            per_layer_projection: Option<GradientMetrics>,
            experts_gate_up_proj: Option<GradientMetrics>,
            experts_down_proj: Option<GradientMetrics>,
            floor: BlockGradients,
        }
        let flat = Flat::deserialize(json)?;
        let drift = BlockGradients {
            gate_proj: flat.gate_proj,
            up_proj: flat.up_proj,
            down_proj: flat.down_proj,
            per_layer_input_gate: flat.per_layer_input_gate,
            per_layer_projection: flat.per_layer_projection,
            experts_gate_up_proj: flat.experts_gate_up_proj,
            experts_down_proj: flat.experts_down_proj,
        };
        Ok(Self { index: flat.index, drift, floor: flat.floor })
    }
}
