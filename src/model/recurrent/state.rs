//! What a recurrence remembers of the positions so far.

use crate::model::identity::Identity;
use candle_core::{Result, Tensor};

/// What a recurrent block keeps of the positions so far: the state, and the last inputs of the convolution. Nothing at
/// first. It belongs to the block that began it.
#[derive(Debug, Clone, Default)]
pub struct RecurrentState {
    kept: Option<(Identity, Kept)>,
}

/// What there is behind some positions.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    /// `[batch, conv_width - 1, width]`, in the dtype of the block's input.
    pub inputs: Tensor,
    /// `[batch, width]`, in f32, or f64 in an f64 model.
    pub state: Tensor,
}

impl RecurrentState {
    /// Whether there were no positions so far.
    pub fn is_empty(&self) -> bool {
        self.kept.is_none()
    }

    /// What is kept for a block and a batch, if there were any positions.
    pub(super) fn of(&self, block: Identity, batch: usize) -> Result<Option<&Kept>> {
        match &self.kept {
            None => Ok(None),
            Some((owner, kept)) if *owner == block && kept.state.dim(0)? == batch => Ok(Some(kept)),
            Some(_) => candle_core::bail!(
                "the state of a recurrence is kept for another model, layer or batch size: begin a new cache"
            ),
        }
    }

    pub(super) fn keep(&mut self, block: Identity, inputs: Tensor, state: Tensor) {
        self.kept = Some((block, Kept { inputs, state }));
    }
}
