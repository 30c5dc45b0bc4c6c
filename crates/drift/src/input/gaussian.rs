//! Noise as a block's input, where the model around it does not run.

use super::ids::TokenIds;
use crate::error::Result;
use candle_core::{Device, Module, Tensor};
use gemma_mlp::Checkpoint;
use gemma_mlp::checkpoint::BlockSpec;
use gemma_mlp::internal::load_norm;
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// Where a block's input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum InputKind {
    /// The model's own, computed from the token ids.
    Model,
    /// Seeded Gaussian noise of RMS 1 through the block's own norm, where the model around the
    /// block does not run here.
    Gaussian,
}

impl InputKind {
    /// The word that reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Gaussian => "gaussian",
        }
    }
}

/// Noise of RMS 1 in every position, seeded by the block's index, through the block's norm:
/// `[batch, seq, hidden]` in f32.
///
/// # Errors
/// candle's, if the device is out of memory.
pub fn gaussian_input(
    checkpoint: &Checkpoint,
    block: &BlockSpec,
    ids: &TokenIds,
    device: &Device,
) -> Result<Tensor> {
    let shape = (ids.batch(), ids.seq_len(), block.hidden_size);
    let rng = StdRng::seed_from_u64(block.index as u64);
    let noise: Vec<f32> =
        StandardNormal.sample_iter(rng).take(shape.0 * shape.1 * shape.2).collect();
    let norm = load_norm(checkpoint, block, device)?;
    Ok(norm.forward(&Tensor::from_vec(noise, shape, device)?)?)
}
