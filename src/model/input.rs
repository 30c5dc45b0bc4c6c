//! What a block is fed with.

use super::embedding::embed;
use super::ids::TokenIds;
use super::layer::LayerFront;
use super::load::load_norm;
use crate::checkpoint::{BlockSpec, Checkpoint};
use crate::error::Result;
use candle_core::{Device, Module, Tensor};
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, StandardNormal};
use serde::Serialize;

/// Where a block's input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InputKind {
    /// The model's own: embeddings of the token ids, through the layer's attention and norms.
    Model,
    /// Seeded Gaussian noise of RMS 1 through the layer's own norm. What the layers before would
    /// have made of the text is not known here.
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

/// The input of a block for token ids: `[batch, seq, hidden]` in f32.
///
/// # Errors
/// An id out of the vocabulary, a tensor that is missing or does not fit.
pub fn mlp_input(
    checkpoint: &Checkpoint,
    block: &BlockSpec,
    ids: &TokenIds,
    device: &Device,
) -> Result<(Tensor, InputKind)> {
    let stack = &checkpoint.config().stacks[0];
    match &stack.attention {
        Ok(attention) if block.index == 0 => {
            let front = LayerFront::load(checkpoint, block, attention, 0, device)?;
            let input = front.mlp_input(&embed(checkpoint, block, ids, device)?)?;
            Ok((input, InputKind::Model))
        }
        _ => Ok((gaussian_input(checkpoint, block, ids, device)?, InputKind::Gaussian)),
    }
}

/// Noise of RMS 1 in every position, seeded by the block's index, through the block's norm.
fn gaussian_input(
    checkpoint: &Checkpoint,
    block: &BlockSpec,
    ids: &TokenIds,
    device: &Device,
) -> Result<Tensor> {
    let shape = (ids.batch(), ids.seq_len(), block.hidden_size);
    let rng = StdRng::seed_from_u64(block.index as u64);
    let noise: Vec<f32> =
        StandardNormal.sample_iter(rng).take(shape.0 * shape.1 * shape.2).collect();
    let norm = load_norm(checkpoint, block, &block.norm, device)?;
    Ok(norm.forward(&Tensor::from_vec(noise, shape, device)?)?)
}
