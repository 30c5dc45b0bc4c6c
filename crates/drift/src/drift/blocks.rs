//! Drift of the blocks alone, where the model around them does not run here.

use super::layers::{LayerSums, compare_blocks};
use super::options::DriftOptions;
use super::side::{Side, Sides};
use crate::input::{TokenIds, gaussian_input};
use candle_core::Device;
use gemma_mlp::Checkpoint;
use gemma_mlp::model::load_mlp;
use gemma_mlp::{Error, Result};

/// What a run compares.
pub(super) struct Blocks<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) options: &'a DriftOptions,
    pub(super) device: &'a Device,
}

impl Blocks<'_> {
    /// The sums of the blocks that are reported, each on noise.
    pub(super) fn window(
        &self,
        ids: &TokenIds,
        mut progress: impl FnMut(f64),
    ) -> Result<Vec<LayerSums>> {
        let mut layers = vec![];
        for &layer in &self.options.layers {
            layers.push(self.block(layer, ids)?);
            progress(layers.len() as f64 / self.options.layers.len() as f64);
        }
        Ok(layers)
    }

    /// A block on noise that both sides can represent.
    fn block(&self, layer: usize, ids: &TokenIds) -> Result<LayerSums> {
        let Self { checkpoint, options, device } = *self;
        let block = checkpoint.block(layer)?;
        let input = gaussian_input(checkpoint, block, ids, device)?;
        let compare = |Sides { a, b }: Sides| {
            let x = input.to_dtype(a.dtype)?.to_dtype(b.dtype)?;
            let side = |side: Side| {
                let mlp = load_mlp(checkpoint, block, side.dtype, device)?;
                Ok::<_, Error>(mlp.with_activation(side.activation).with_rounding(side.rounding))
            };
            compare_blocks(&side(a)?, &side(b)?, [&x.to_dtype(a.dtype)?, &x])
        };
        let (drift, gates) = compare(options.sides)?;
        let (floor, _) = compare(options.floor_sides)?;
        Ok(LayerSums { drift, floor, gates, ..LayerSums::default() })
    }
}
