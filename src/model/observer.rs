//! What can be watched inside a forward pass.

use crate::mlp::{GateUp, GemmaMlp};
use candle_core::{Result, Tensor};

/// Watches a forward pass. Every method does nothing unless it is written.
///
/// A layer that is not watched runs as it does without an observer, its block in one operation. In one
/// that is, the block is taken apart: an eighth to a half slower, with the same bits.
pub trait Observer {
    /// Whether [`Self::block`] wants to see the block of the layer with an index.
    fn watches(&self, _layer: usize) -> bool {
        true
    }

    /// A block that is watched is about to run.
    ///
    /// # Errors
    /// Whatever ends the pass.
    fn block(&mut self, _block: Block) -> Result<()> {
        Ok(())
    }

    /// The residual stream after the layer with an index: `[batch, seq, hidden]`.
    ///
    /// # Errors
    /// Whatever ends the pass.
    fn residual(&mut self, _layer: usize, _stream: &Tensor) -> Result<()> {
        Ok(())
    }
}

/// A block in the middle of a forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// Which layer's.
    pub index: usize,
    /// The block.
    pub mlp: &'a GemmaMlp,
    /// Its input, `[batch, seq, hidden]`.
    pub input: &'a Tensor,
    /// What gate and up make of the input.
    pub projected: &'a GateUp,
}

/// Watches nothing.
impl Observer for () {
    fn watches(&self, _layer: usize) -> bool {
        false
    }
}
