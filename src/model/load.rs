//! Weights of a checkpoint as layers.

use super::norm::RmsNorm;
use crate::checkpoint::{BlockSpec, Checkpoint};
use crate::error::Result;
use crate::mlp::{GemmaMlp, gemma_mlp_b};
use candle_core::{DType, Device};

/// Loads one block of a checkpoint in a dtype, under the activation that its config means.
///
/// # Errors
/// candle's, if the device is out of memory: names, shapes and dtypes were checked on opening.
pub fn load_mlp(
    checkpoint: &Checkpoint,
    block: &BlockSpec,
    dtype: DType,
    device: &Device,
) -> Result<GemmaMlp> {
    let vb = checkpoint.tensors().var_builder(dtype, device).pp(&block.name);
    let (hidden, intermediate) = (block.hidden_size, block.intermediate_size);
    Ok(gemma_mlp_b(hidden, intermediate, block.bias, block.activation.value, vb)?)
}

/// A norm of a block's layer, in f32.
pub(super) fn load_norm(
    checkpoint: &Checkpoint,
    block: &BlockSpec,
    name: &str,
    device: &Device,
) -> Result<RmsNorm> {
    let weight = checkpoint.tensors().load(name, &[block.hidden_size], DType::F32, device)?;
    Ok(RmsNorm::new(weight, block.eps))
}
