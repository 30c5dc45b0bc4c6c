//! Figures of forward passes, as data.

use super::top::TopToken;
use crate::error::Result;
use crate::input::InputKind;
use candle_core::{DType, Tensor};
use gemma_mlp::Activation;
use gemma_mlp::checkpoint::{Remark, Resolved};
use serde::Serialize;
use std::collections::BTreeMap;

/// The figures of a forward pass, block by block.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ForwardSummary {
    /// Version of this layout.
    pub schema: u32,
    /// Where the checkpoint comes from.
    pub checkpoint: String,
    /// Token ids per text.
    pub tokens: usize,
    /// How many texts of `tokens` ids there were.
    pub batch: usize,
    /// The dtype that was computed in.
    pub dtype: &'static str,
    /// Why the whole model does not run, and its blocks did alone, on noise; null where it runs.
    pub blocks_only: Option<String>,
    /// The blocks that were asked for.
    pub layers: Vec<BlockSummary>,
    /// For each text, the likeliest tokens to follow it, likeliest first; empty where the whole
    /// model does not run.
    pub top: Vec<Vec<TopToken>>,
    /// What is not used, was guessed, or is odd.
    pub remarks: Vec<Remark>,
}

impl ForwardSummary {
    /// What saved tensors are, for whoever opens the file.
    pub(super) fn metadata(&self) -> BTreeMap<&'static str, String> {
        let activation = self.layers.first().map(|layer| layer.activation.value.to_string());
        [
            ("producer", concat!("gemma-mlp ", env!("CARGO_PKG_VERSION")).to_string()),
            ("checkpoint", self.checkpoint.clone()),
            ("activation", activation.unwrap_or_default()),
            ("dtype", self.dtype.to_string()),
        ]
        .into()
    }
}

/// Figures of one block's forward pass.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct BlockSummary {
    /// Which block.
    pub index: usize,
    /// Where its input comes from.
    pub input: InputKind,
    /// The activation in use, with the reason.
    pub activation: Resolved<Activation>,
    /// How large `gate(x)` is.
    pub gate: Stats,
    /// How large `up(x)` is.
    pub up: Stats,
    /// How large `activation(gate)` is.
    pub activated: Stats,
    /// How large `activation(gate) ⊙ up` is.
    pub product: Stats,
    /// How large the block's output is.
    pub output: Stats,
}

/// How large a tensor's elements are. NaN and infinities count in `nonfinite` alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Largest magnitude of a finite element.
    pub max_abs: f64,
    /// Root of the mean square of the finite elements.
    pub rms: f64,
    /// How many elements are NaN or infinite.
    pub nonfinite: usize,
}

impl Stats {
    /// Measures all elements of a tensor; sums are f64.
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
