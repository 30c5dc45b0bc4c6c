//! One block of a checkpoint on its input, with everything that happens inside.

use super::ids::TokenIds;
use super::input::{InputKind, mlp_input};
use super::load::load_mlp;
use crate::activation::Activation;
use crate::checkpoint::{BlockSpec, Checkpoint, Resolved};
use crate::error::{Error, Result};
use crate::mlp::Trace;
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensorError;
use serde::Serialize;
use std::collections::HashMap;
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

/// What [`forward_block`] found in a number of blocks.
#[derive(Debug, Clone, Serialize)]
pub struct ForwardSummary {
    /// Version of this layout.
    pub schema: u32,
    /// Where the checkpoint comes from.
    pub checkpoint: String,
    /// Token ids per text, and how many texts.
    pub tokens: usize,
    /// How many texts of `tokens` ids there were.
    pub batch: usize,
    /// The dtype that was computed in.
    pub dtype: &'static str,
    /// The blocks.
    pub layers: Vec<BlockSummary>,
    /// NaN or infinite weights in these blocks.
    pub warnings: Vec<String>,
}

impl ForwardSummary {
    /// What saved tensors are, for whoever opens the file.
    fn metadata(&self) -> HashMap<String, String> {
        let activation = self.layers.first().map(|layer| layer.activation.value.to_string());
        [
            ("producer", concat!("gemma-mlp ", env!("CARGO_PKG_VERSION")).to_string()),
            ("checkpoint", self.checkpoint.clone()),
            ("activation", activation.unwrap_or_default()),
            ("dtype", self.dtype.to_string()),
        ]
        .map(|(key, value)| (key.to_string(), value))
        .into()
    }
}

/// Figures of one block's forward pass.
#[derive(Debug, Clone, Serialize)]
pub struct BlockSummary {
    /// Which block.
    pub index: usize,
    /// Where its input comes from.
    pub input: InputKind,
    /// The activation in use, with the reason.
    pub activation: Resolved<Activation>,
    /// Of `gate(x)`.
    pub gate: Stats,
    /// Of `up(x)`.
    pub up: Stats,
    /// Of `activation(gate)`.
    pub activated: Stats,
    /// Of `activation(gate) ⊙ up`.
    pub product: Stats,
    /// Of the block's output.
    pub output: Stats,
}

/// How large a tensor's elements are. Not-finite elements count in `nonfinite` alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stats {
    /// Largest magnitude.
    pub max_abs: f64,
    /// Root of the mean square.
    pub rms: f64,
    /// How many elements are NaN or infinite.
    pub nonfinite: usize,
}

impl Stats {
    /// Of all elements of a tensor, summed in f64.
    ///
    /// # Errors
    /// candle's, if the device fails.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        let values = tensor.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>()?;
        let finite = || values.iter().filter(|v| v.is_finite());
        let count = finite().count();
        Ok(Self {
            max_abs: finite().fold(0.0, |max, v| v.abs().max(max)),
            rms: (finite().map(|v| v * v).sum::<f64>() / count.max(1) as f64).sqrt(),
            nonfinite: values.len() - count,
        })
    }
}
