//! What happens in the blocks of a forward pass.

use super::ForwardOptions;
use super::summary::{BlockSummary, Stats};
use crate::error::Result;
use crate::input::{InputKind, TokenIds, gaussian_input};
use candle_core::{Device, Tensor};
use gemma_mlp::checkpoint::{Checkpoint, Resolved};
use gemma_mlp::mlp::{GateUp, GemmaMlp};
use gemma_mlp::model::{Block, Observer, load_mlp};

/// Takes down what happens in the blocks that were asked for.
pub(super) struct Recorder<'a, P> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) options: &'a ForwardOptions,
    pub(super) layers: Vec<BlockSummary>,
    pub(super) kept: Vec<(String, Tensor)>,
    pub(super) done: usize,
    pub(super) progress: P,
}

impl<P: FnMut(usize)> Recorder<'_, P> {
    /// The blocks alone, each on noise.
    pub(super) fn blocks(&mut self, ids: &TokenIds, device: &Device) -> Result<()> {
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
