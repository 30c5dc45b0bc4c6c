//! Gemma around the block: so far what stands between token ids and the first layer's MLP, and
//! one block at a time on its input.

mod attention;
mod embedding;
mod forward;
mod input;
mod layer;
mod norm;
mod rope;

pub use attention::Attention;
pub use embedding::embed;
pub use forward::{BlockForward, BlockSummary, ForwardSummary, Stats, forward_block, save_blocks};
pub use input::{InputKind, TokenIds, mlp_input};
pub use layer::LayerFront;
pub use norm::RmsNorm;
pub use rope::RotaryEmbedding;

use crate::checkpoint::{BlockSpec, Checkpoint};
use crate::{GemmaMlp, Result, gemma_mlp_b};
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
