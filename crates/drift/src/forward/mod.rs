//! A forward pass with everything that happens inside the blocks.

mod summary;
mod top;

pub use summary::{BlockSummary, ForwardSummary, Stats, TopToken};
use top::top_tokens;

use crate::Result;
use crate::input::{InputKind, TokenIds, gaussian_input};
use candle_core::{DType, Device, Tensor};
use gemma_mlp::checkpoint::{Checkpoint, Resolved};
use gemma_mlp::mlp::{GateUp, GemmaMlp};
use gemma_mlp::model::{Block, Observer, load_mlp};
use gemma_mlp::{Activation, Error, Gemma};
use safetensors::SafeTensorError;
use std::path::Path;

/// How to run a forward pass.
#[derive(Debug, Clone)]
pub struct ForwardOptions {
    /// What stands in the gate; `None` for what the config means.
    pub activation: Option<Activation>,
    /// What to compute in.
    pub dtype: DType,
    /// Which blocks to report, by index.
    pub layers: Vec<usize>,
    /// Whether to keep the tensors of these blocks, the residual stream and the logits.
    pub keep: bool,
}

/// A forward pass.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Forward {
    /// Its figures.
    pub summary: ForwardSummary,
    /// By name: `layers.N.mlp.{input, gate, up, activated, product, output}`; where the whole model
    /// ran also `hidden.N`, the residual stream after layer N, and `logits`. Empty unless they
    /// were to be kept.
    pub tensors: Vec<(String, Tensor)>,
}

/// How many of the likeliest next tokens a summary lists.
const TOP: usize = 5;

/// Runs a checkpoint on token ids. Where the family's attention is not supported, its blocks run
/// one by one on [`gaussian_input`], and there are no logits.
///
/// `progress` is called after each block with how many are done.
///
/// # Errors
/// An id out of the vocabulary, a tensor that is missing or does not fit.
pub fn forward(
    checkpoint: &Checkpoint,
    ids: &TokenIds,
    options: &ForwardOptions,
    device: &Device,
    progress: impl FnMut(usize),
) -> Result<Forward> {
    let (mut tensors, mut top) = (vec![], vec![]);
    let mut recorder =
        Recorder { checkpoint, options, layers: vec![], kept: vec![], done: 0, progress };
    if checkpoint.attention().is_ok() {
        ids.check(checkpoint.config().stacks[0].vocab_size)?;
        let mut gemma = Gemma::load(checkpoint, device, options.dtype)?;
        if let Some(activation) = options.activation {
            gemma = gemma.with_activation(activation);
        }
        let hidden = gemma.hidden(&ids.tensor(device)?, &mut recorder)?;
        if gemma.head().is_some() {
            let last = hidden.narrow(1, ids.seq_len() - 1, 1)?;
            top = top_tokens(checkpoint, &gemma.logits(&last)?.squeeze(1)?, TOP)?;
            if options.keep {
                tensors.push(("logits".to_string(), gemma.logits(&hidden)?));
            }
        }
    } else {
        recorder.blocks(ids, device)?;
    }
    tensors.append(&mut recorder.kept);
    Ok(Forward {
        summary: ForwardSummary {
            schema: 2,
            checkpoint: checkpoint.source().to_string(),
            tokens: ids.seq_len(),
            batch: ids.batch(),
            dtype: options.dtype.as_str(),
            warnings: warnings(checkpoint, options)?,
            layers: recorder.layers,
            top,
        },
        tensors,
    })
}

fn warnings(checkpoint: &Checkpoint, options: &ForwardOptions) -> Result<Vec<String>> {
    let mut warnings = vec![];
    for &index in &options.layers {
        warnings.extend(checkpoint.block(index)?.nonfinite_warnings(checkpoint.tensors())?);
    }
    Ok(warnings)
}

/// Takes down what happens in the blocks that were asked for.
struct Recorder<'a, P> {
    checkpoint: &'a Checkpoint,
    options: &'a ForwardOptions,
    layers: Vec<BlockSummary>,
    kept: Vec<(String, Tensor)>,
    done: usize,
    progress: P,
}

impl<P: FnMut(usize)> Recorder<'_, P> {
    /// The blocks alone, each on noise.
    fn blocks(&mut self, ids: &TokenIds, device: &Device) -> Result<()> {
        let options = self.options;
        for &index in &options.layers {
            let block = self.checkpoint.block(index)?;
            let input = gaussian_input(self.checkpoint, block, ids, device)?;
            let input = input.to_dtype(options.dtype)?;
            let mut mlp = load_mlp(self.checkpoint, block, options.dtype, device)?;
            if let Some(activation) = options.activation {
                mlp = mlp.with_activation(activation);
            }
            self.record(index, InputKind::Gaussian, &mlp, &input, &mlp.project(&input)?)?;
        }
        Ok(())
    }

    fn record(
        &mut self,
        index: usize,
        input_kind: InputKind,
        mlp: &GemmaMlp,
        input: &Tensor,
        projected: &GateUp,
    ) -> Result<()> {
        let activation = match self.options.activation {
            Some(value) => Resolved { value, reason: "asked for".into() },
            None => self.checkpoint.block(index)?.activation.clone(),
        };
        let trace = mlp.trace_projected(projected)?;
        self.layers.push(BlockSummary {
            index,
            input: input_kind,
            activation,
            gate: Stats::of(&trace.gate)?,
            up: Stats::of(&trace.up)?,
            activated: Stats::of(&trace.activated)?,
            product: Stats::of(&trace.product)?,
            output: Stats::of(&trace.output)?,
        });
        if self.options.keep {
            for (part, tensor) in [
                ("input", input.clone()),
                ("gate", trace.gate),
                ("up", trace.up),
                ("activated", trace.activated),
                ("product", trace.product),
                ("output", trace.output),
            ] {
                self.kept.push((format!("layers.{index}.mlp.{part}"), tensor));
            }
        }
        self.done += 1;
        (self.progress)(self.done);
        Ok(())
    }
}

impl<P: FnMut(usize)> Observer for Recorder<'_, P> {
    fn watches(&self, layer: usize) -> bool {
        self.options.layers.contains(&layer)
    }

    fn block(&mut self, block: Block) -> candle_core::Result<()> {
        let Block { index, mlp, input, projected } = block;
        self.record(index, InputKind::Model, mlp, input, projected)
            .map_err(candle_core::Error::wrap)
    }

    fn residual(&mut self, layer: usize, stream: &Tensor) -> candle_core::Result<()> {
        if self.options.keep && self.options.layers.contains(&layer) {
            self.kept.push((format!("hidden.{layer}"), stream.clone()));
        }
        Ok(())
    }
}

impl Forward {
    /// Saves the tensors as one safetensors file, with what they are in its header.
    ///
    /// The file appears whole or not at all: it is written beside its place and renamed.
    ///
    /// # Errors
    /// A directory that does not exist or cannot be written to, a full disk.
    pub fn save(&self, path: &Path) -> Result<()> {
        let tensors = self.tensors.iter().map(|(name, tensor)| (name, tensor));
        let metadata = Some(self.summary.metadata());
        safetensors::serialize_to_file(tensors, metadata, path).map_err(|e| match e {
            SafeTensorError::IoError(source) => Error::Io { path: path.into(), source },
            other => Error::Safetensors { path: path.into(), reason: other.to_string() },
        })?;
        Ok(())
    }
}
