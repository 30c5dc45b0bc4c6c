//! Drift of the blocks alone, where the model around them does not run here.

use super::compare::{BlockSide, BlockSums};
use super::layers::LayerSums;
use super::options::DriftOptions;
use super::side::{Side, Sides};
use super::whole::WholeSums;
use super::window::Window;
use crate::error::{Error, Result};
use crate::input::{TokenIds, gaussian_input};
use candle_core::Device;
use gemma_mlp::Checkpoint;
use gemma_mlp::model::load_mlp;

/// What a run compares.
pub(super) struct Blocks<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) options: &'a DriftOptions,
    pub(super) device: &'a Device,
}

impl Blocks<'_> {
    /// The sums of windows: of the blocks that are reported, each on noise.
    pub(super) fn windows(
        &self,
        windows: &[Window],
        mut progress: impl FnMut(f64),
    ) -> Result<Vec<WholeSums>> {
        let sums = windows.iter().enumerate().map(|(i, window)| {
            let of_all = |fraction| (i as f64 + fraction) / windows.len() as f64;
            let layers = self.layers(&window.token_ids()?, |done| progress(of_all(done)))?;
            let floor_positions = window.scored.len();
            Ok(WholeSums { layers, floor_positions, logits: None, embedding: None })
        });
        sums.collect()
    }

    fn layers(&self, ids: &TokenIds, mut progress: impl FnMut(f64)) -> Result<Vec<LayerSums>> {
        let mut layers = vec![];
        for &layer in &self.options.layers {
            layers.push(self.block(layer, ids)?);
            progress(layers.len() as f64 / self.options.layers.len() as f64);
        }
        Ok(layers)
    }

    /// A block on noise.
    fn block(&self, layer: usize, ids: &TokenIds) -> Result<LayerSums> {
        let Self { checkpoint, options, device } = *self;
        let block = checkpoint.block(layer)?;
        let input = gaussian_input(checkpoint, block, ids, device)?;
        let compare = |Sides { a, b }: Sides| {
            let load = |side: Side| {
                let mlp = side.model().of(checkpoint, |checkpoint| {
                    Ok(load_mlp(checkpoint, block, side.dtype, device)?)
                })?;
                Ok::<_, Error>(mlp.with_activation(side.activation).with_rounding(side.rounding))
            };
            let (mlp_a, mlp_b) = (load(a)?, load(b)?);
            let sides =
                Sides { a: BlockSide::new(&mlp_a, a.dtype), b: BlockSide::new(&mlp_b, b.dtype) };
            BlockSums::of(sides, &input)
        };
        let (drift, floor) = (compare(options.sides)?, compare(options.floor_sides)?);
        Ok(LayerSums {
            drift: drift.points(),
            floor: floor.points(),
            gates: drift.gates.unwrap_or_default(),
            ..LayerSums::default()
        })
    }
}
