//! Sides that go through a head together.

use crate::error::Result;
use candle_core::Tensor;
use gemma_mlp::model::Head;

/// Sides whose heads are one weight, and whose hidden states have one dtype: they are multiplied at
/// once.
pub(super) struct Batch<'a> {
    pub(super) head: &'a Head,
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

impl<'a> Batch<'a> {
    /// All sides in as few batches as there can be.
    pub(super) fn all(sides: &[(&'a Head, Tensor)]) -> Result<Vec<Self>> {
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
        groups.iter().map(|group| Self::of(sides, group)).collect()
    }

    fn of(sides: &[(&'a Head, Tensor)], group: &[usize]) -> Result<Self> {
        let (mut lanes, mut hidden, mut first) = (vec![], vec![], 0);
        for &side in group {
            let count = sides[side].1.dim(0)?;
            lanes.push(Lane { side, first, count });
            hidden.push(&sides[side].1);
            first += count;
        }
        Ok(Self { head: sides[group[0]].0, hidden: Tensor::cat(&hidden, 0)?, lanes })
    }

    /// The logits of some words, `[count, len]` for each side.
    pub(super) fn logits(&self, start: usize, len: usize) -> Result<Vec<Tensor>> {
        let all = self.head.rows(&self.hidden, start, len)?; // [positions, len]
        self.lanes.iter().map(|lane| Ok(all.narrow(0, lane.first, lane.count)?)).collect()
    }
}
