//! Sides that go through a head together.

use crate::error::Result;
use candle_core::Tensor;
use gemma_mlp::model::Head;

/// Positions that are compared at a time, for all sides together: few enough for the logits of many
/// words to stay in a cache, many enough for reading the head's weight not to count.
pub(super) const POSITIONS: usize = 1024;

/// Sides whose heads are one weight, and whose hidden states have one dtype: they are multiplied at
/// once.
pub(super) struct Batch {
    /// One side's behind another's: `[positions, hidden]`.
    pub(super) hidden: Tensor,
    pub(super) lanes: Vec<Lane>,
}

/// A side's positions in a batch.
#[derive(Clone, Copy)]
pub(super) struct Lane {
    pub(super) side: usize,
    pub(super) first: usize,
    pub(super) count: usize,
}

/// All sides in as few batches as there can be.
pub(super) fn groups(sides: &[(&Head, Tensor)]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = vec![];
    for (i, (head, hidden)) in sides.iter().enumerate() {
        let alike = |group: &&mut Vec<usize>| {
            let (other, other_hidden) = &sides[group[0]];
            other.weight().shares_storage(head.weight())
                && other.softcap() == head.softcap()
                && other_hidden.dtype() == hidden.dtype()
        };
        match groups.iter_mut().find(alike) {
            Some(group) => group.push(i),
            None => groups.push(vec![i]),
        }
    }
    groups
}

impl Batch {
    /// Some sides' hidden states, `[count, hidden]` each.
    pub(super) fn of(all: &[Tensor], group: &[usize]) -> Result<Self> {
        let (mut lanes, mut hidden, mut first) = (vec![], vec![], 0);
        for &side in group {
            let count = all[side].dim(0)?;
            lanes.push(Lane { side, first, count });
            hidden.push(&all[side]);
            first += count;
        }
        Ok(Self { hidden: Tensor::cat(&hidden, 0)?, lanes })
    }

    /// The logits of some words of a head, `[count, len]` for each side.
    pub(super) fn logits(&self, head: &Head, start: usize, len: usize) -> Result<Vec<Tensor>> {
        let all = head.rows(&self.hidden, start, len)?; // [positions, len]
        self.lanes.iter().map(|lane| Ok(all.narrow(0, lane.first, lane.count)?)).collect()
    }
}
