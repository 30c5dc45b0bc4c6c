//! One block of a checkpoint on its input, with everything that happens inside.

use super::ids::TokenIds;
use super::input::{InputKind, mlp_input};
use super::load::load_mlp;
use super::summary::{BlockSummary, ForwardSummary, Stats};
use crate::activation::Activation;
use crate::checkpoint::{BlockSpec, Checkpoint, Resolved};
use crate::error::{Error, Result};
use crate::mlp::Trace;
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensorError;
use std::path::Path;

/// A block's forward pass.
#[derive(Debug, Clone)]
pub struct BlockForward {
    /// Which block.
    pub index: usize,
    /// Where its input comes from.
    pub kind: InputKind,
    /// Its input, `[batch, seq, hidden]`.
    pub input: Tensor,
    /// Its intermediates and its output.
    pub trace: Trace,
}

/// How to run blocks.
#[derive(Debug, Clone)]
pub struct ForwardOptions {
    /// What stands in the gate; `None` for what each block's config means.
    pub activation: Option<Activation>,
    /// What to compute in.
    pub dtype: DType,
    /// Which blocks, by index.
    pub layers: Vec<usize>,
}

/// Runs blocks, each on the input that [`mlp_input`] gives it, and hands every forward pass to
/// `each`, to be kept or dropped.
///
/// # Errors
/// As [`mlp_input`].
pub fn forward_blocks(
    checkpoint: &Checkpoint,
    ids: &TokenIds,
    options: &ForwardOptions,
    device: &Device,
    mut each: impl FnMut(BlockForward),
) -> Result<ForwardSummary> {
    let (mut layers, mut warnings) = (vec![], vec![]);
    for &index in &options.layers {
        let block = checkpoint.block(index)?;
        let activation = match options.activation {
            Some(value) => Resolved { value, reason: "asked for".into() },
            None => block.activation.clone(),
        };
        let forward =
            forward_block(checkpoint, block, ids, activation.value, options.dtype, device)?;
        layers.push(forward.summary(activation)?);
        warnings.extend(block.nonfinite_warnings(checkpoint.tensors())?);
        each(forward);
    }
    Ok(ForwardSummary {
        schema: 1,
        checkpoint: checkpoint.source().to_string(),
        tokens: ids.seq_len(),
        batch: ids.batch(),
        dtype: options.dtype.as_str(),
        layers,
        warnings,
    })
}

/// Runs one block on the input that [`mlp_input`] gives, under an activation, in a dtype.
///
/// # Errors
/// As [`mlp_input`].
pub fn forward_block(
    checkpoint: &Checkpoint,
    block: &BlockSpec,
    ids: &TokenIds,
    activation: Activation,
    dtype: DType,
    device: &Device,
) -> Result<BlockForward> {
    let (input, kind) = mlp_input(checkpoint, block, ids, device)?;
    let input = input.to_dtype(dtype)?;
    let mlp = load_mlp(checkpoint, block, dtype, device)?.with_activation(activation);
    let trace = mlp.trace(&input)?;
    Ok(BlockForward { index: block.index, kind, input, trace })
}

impl BlockForward {
    /// Its tensors by the name under which they are saved, `layers.N.mlp.gate`.
    pub fn tensors(&self) -> Vec<(String, &Tensor)> {
        let name = |part: &str| format!("layers.{}.mlp.{part}", self.index);
        let parts = self.parts().map(|(part, tensor)| (name(part), tensor));
        std::iter::once((name("input"), &self.input)).chain(parts).collect()
    }

    fn parts(&self) -> [(&'static str, &Tensor); 5] {
        let Trace { gate, up, activated, product, output } = &self.trace;
        [
            ("gate", gate),
            ("up", up),
            ("activated", activated),
            ("product", product),
            ("output", output),
        ]
    }

    /// Its figures.
    ///
    /// # Errors
    /// candle's, if the device fails.
    pub fn summary(&self, activation: Resolved<Activation>) -> Result<BlockSummary> {
        let [gate, up, activated, product, output] =
            self.parts().map(|(_, tensor)| Stats::of(tensor));
        Ok(BlockSummary {
            index: self.index,
            input: self.kind,
            activation,
            gate: gate?,
            up: up?,
            activated: activated?,
            product: product?,
            output: output?,
        })
    }
}

/// Saves the tensors of forward passes as one safetensors file, with what they are in its header.
///
/// The file appears whole or not at all: it is written beside its place and renamed.
///
/// # Errors
/// A directory that does not exist or cannot be written to, a full disk.
pub fn save_blocks(path: &Path, blocks: &[BlockForward], summary: &ForwardSummary) -> Result<()> {
    let tensors = blocks.iter().flat_map(BlockForward::tensors);
    safetensors::serialize_to_file(tensors, Some(summary.metadata()), path).map_err(|e| match e {
        SafeTensorError::IoError(source) => Error::Io { path: path.into(), source },
        other => Error::Safetensors { path: path.into(), reason: other.to_string() },
    })
}
