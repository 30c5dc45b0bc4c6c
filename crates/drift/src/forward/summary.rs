//! Figures of forward passes, as data.

use crate::Result;
use crate::input::InputKind;
use candle_core::{DType, Tensor};
use gemma_mlp::Activation;
use gemma_mlp::checkpoint::Resolved;
use serde::Serialize;
use std::collections::HashMap;

/// What the forward passes of a number of blocks found.
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
    /// The blocks.
    pub layers: Vec<BlockSummary>,
    /// For each text, the likeliest tokens to follow it, likeliest first; empty where the whole
    /// model does not run.
    pub top: Vec<Vec<TopToken>>,
    /// NaN or infinite weights in these blocks.
    pub warnings: Vec<String>,
}

/// A token that may come next.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TopToken {
    /// Its id.
    pub id: u32,
    /// What it stands for; `None` without a tokenizer.
    pub text: Option<String>,
    /// Its logit.
    pub logit: f64,
    /// Its probability.
    pub probability: f64,
}

impl ForwardSummary {
    /// What saved tensors are, for whoever opens the file.
    pub(super) fn metadata(&self) -> HashMap<String, String> {
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
#[non_exhaustive]
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
#[non_exhaustive]
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
