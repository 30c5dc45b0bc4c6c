//! A distance, and what rounding does of it.

use super::models::Models;
use crate::drift::Accumulator;
use crate::error::Result;
use candle_core::Tensor;

/// A distance and what rounding does of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pair {
    /// Theirs (b) against ours (a).
    pub(super) drift: Accumulator,
    pub(super) floor: Accumulator,
}

impl Pair {
    /// Adds what theirs has from a position on. Tensors are `[1, positions, …]`; the one beside has the first
    /// positions.
    pub(super) fn add(
        &mut self,
        models: &Models,
        ours: &Tensor,
        beside: &Tensor,
        theirs: &Tensor,
        first: usize,
    ) -> Result<()> {
        let rows = theirs.dim(1)?;
        let theirs = theirs.reshape(ours.narrow(1, first, rows)?.shape())?;
        self.drift.add(&ours.narrow(1, first, rows)?, &theirs)?;
        let floor = beside.dim(1)?;
        self.add_floor(models, &ours.narrow(1, 0, floor)?, beside)
    }

    fn add_floor(&mut self, models: &Models, ours: &Tensor, beside: &Tensor) -> Result<()> {
        match models.is_beside_wider() {
            true => self.floor.add(beside, ours)?,
            false => self.floor.add(ours, beside)?,
        }
        Ok(())
    }
}
