//! How far two ways of computing the same model are apart, beside what rounding alone does.
//!
//! Everything here is a pair of [`Side`]s: the switch is `tanh` against `exact` in one dtype, the
//! noise floor is one activation in two dtypes.

mod block;
mod metrics;
mod side;

pub use block::{BlockPoints, LayerDrift};
pub use metrics::{Accumulator, Metrics};
pub use side::{Side, Sides, floor_sides};

use crate::activation::Activation;
use crate::checkpoint::{Checkpoint, Family, Resolved};
use crate::error::Result;
use crate::model::TokenIds;
use candle_core::Device;
use serde::Serialize;

/// What to compare, and where.
#[derive(Debug, Clone)]
pub struct DriftOptions {
    /// The pair to measure.
    pub sides: Sides,
    /// The pair that shows what rounding alone does.
    pub floor_sides: Sides,
    /// Which blocks, by index.
    pub layers: Vec<usize>,
}

/// The result of [`drift`]: plain data, of which table and JSON are views.
#[derive(Debug, Clone, Serialize)]
pub struct Drift {
    /// Version of this layout.
    pub schema: u32,
    /// The version of this crate.
    pub version: &'static str,
    /// What was measured on.
    pub checkpoint: CheckpointSummary,
    /// The pair that `layers` compares, b against a.
    pub sides: Sides,
    /// The pair that each `floor` compares.
    pub floor_sides: Sides,
    /// Token ids per text.
    pub tokens: usize,
    /// How many texts of `tokens` ids there were.
    pub batch: usize,
    /// Where it was computed.
    pub device: &'static str,
    /// The blocks.
    pub layers: Vec<LayerDrift>,
    /// NaN or infinite weights in these blocks.
    pub warnings: Vec<String>,
}

/// The checkpoint as reports name it.
#[derive(Debug, Clone, Serialize)]
pub struct CheckpointSummary {
    /// Where it comes from.
    pub source: String,
    /// Its family.
    pub family: Family,
    /// `model_type` of its config.
    pub model_type: String,
    /// The dtype of its MLP weights.
    pub dtype: &'static str,
    /// How many MLP blocks it has.
    pub blocks: usize,
    /// What its config means the activation to be, with the reason.
    pub activation: Resolved<Activation>,
}

impl CheckpointSummary {
    /// The summary of an open checkpoint.
    pub fn new(checkpoint: &Checkpoint) -> Self {
        let config = checkpoint.config();
        Self {
            source: checkpoint.source().to_string(),
            family: config.family,
            model_type: config.model_type.clone(),
            dtype: checkpoint.dtype().as_str(),
            blocks: checkpoint.blocks().len(),
            activation: config.stacks[0].activation.clone(),
        }
    }
}

/// Measures the drift between two sides in every block, on token ids.
///
/// The first block's input is the model's own where its attention is supported, the others get
/// seeded noise ([`crate::model::InputKind`]). Both sides of a pair see the same input, which is
/// rounded to the dtypes of both, and weights in their own dtype.
///
/// `progress` is called after each block with how many are done.
///
/// # Errors
/// A layer that does not exist, an id out of the vocabulary, a tensor that does not fit.
pub fn drift(
    checkpoint: &Checkpoint,
    ids: &TokenIds,
    options: &DriftOptions,
    device: &Device,
    mut progress: impl FnMut(usize),
) -> Result<Drift> {
    let mut layers = vec![];
    let mut warnings = vec![];
    for (done, &index) in options.layers.iter().enumerate() {
        let block = checkpoint.block(index)?;
        layers.push(block::layer_drift(checkpoint, block, ids, options, device)?);
        warnings.extend(block.nonfinite_warnings(checkpoint.tensors())?);
        progress(done + 1);
    }
    Ok(Drift {
        schema: 1,
        version: env!("CARGO_PKG_VERSION"),
        checkpoint: CheckpointSummary::new(checkpoint),
        sides: options.sides,
        floor_sides: options.floor_sides,
        tokens: ids.seq_len(),
        batch: ids.batch(),
        device: device_name(device),
        layers,
        warnings,
    })
}

fn device_name(device: &Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
        Device::Metal(_) => "metal",
    }
}
