//! Token embeddings.

use super::ids::TokenIds;
use crate::checkpoint::{BlockSpec, Checkpoint};
use crate::error::Result;
use candle_core::{Device, Tensor};

/// The scaled embeddings of token ids, `[batch, seq, hidden]` in f32: what enters the first layer.
///
/// Gemma multiplies by `sqrt(hidden)`, in an f32 model by its f32 value (transformers
/// `Gemma3TextScaledWordEmbedding`). Only the rows of these ids are read.
///
/// # Errors
/// An id out of the vocabulary, an embedding that is missing or does not fit the config.
pub fn embed(
    checkpoint: &Checkpoint,
    block: &BlockSpec,
    ids: &TokenIds,
    device: &Device,
) -> Result<Tensor> {
    // The embedding is the layers' sibling: model.layers.0 -> model.embed_tokens.weight.
    let prefix = block.layer.strip_suffix("layers.0").unwrap_or(&block.layer);
    let name = format!("{prefix}embed_tokens.weight");
    let hidden = block.hidden_size;
    let rows = checkpoint.tensors().load_rows(&name, hidden, ids.as_slice(), device)?; // [batch * seq, hidden]
    let scaled = (rows * f64::from((hidden as f32).sqrt()))?;
    Ok(scaled.reshape((ids.batch(), ids.seq_len(), hidden))?)
}
