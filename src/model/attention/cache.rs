//! Keys and values of the tokens so far.

use crate::kernels::linear::{Columns, PANEL, Stored, TILE};
use crate::kernels::threads;
use crate::model::identity::Identity;
use candle_core::Result;
use candle_nn::kv_cache::KvCache;
use std::ops::Range;

/// Keys and values of a layer's tokens so far; none at first. They belong to the layer whose attention
/// began them.
#[derive(Debug, Clone, Default)]
pub struct KeyValues {
    owner: Option<Identity>,
    kept: Option<Kept>,
}

impl KeyValues {
    /// What is kept for a layer's attention, which owns it from now on.
    pub(super) fn of(&mut self, attention: Identity) -> Result<&mut Option<Kept>> {
        match *self.owner.get_or_insert(attention) == attention {
            true => Ok(&mut self.kept),
            false => candle_core::bail!("{FOREIGN}"),
        }
    }
}

pub(super) const FOREIGN: &str =
    "keys and values are kept for another model, layer or batch size: begin a new cache";

/// How they are kept.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    /// As tensors, `[batch, kv_heads, seq, head_dim]`.
    Tensors(KvCache),
    /// As panels, for attention in one pass.
    Panels(Panels),
}

/// Keys and values of some heads as the right sides of products: the keys' is multiplied by queries,
/// the values' by weights.
#[derive(Debug, Clone)]
pub(super) struct Panels {
    heads: Vec<Head>,
    head_dim: usize,
    len: usize,
}

/// Keys and values of one head of one text.
#[derive(Debug, Clone, Default)]
struct Head {
    /// A key is a row: `[len / 32, head_dim]` columns.
    keys: Vec<Columns<f32>>,
    /// A key's position is a column, and blocks of positions follow one another:
    /// `[len / TILE, head_dim / 32, TILE]` columns.
    values: Vec<Columns<f32>>,
}

impl Panels {
    /// None yet, of heads of a width.
    pub fn new(heads: usize, head_dim: usize) -> Self {
        Self { heads: vec![Head::default(); heads], head_dim, len: 0 }
    }

    /// How many heads there are, those of all texts of a batch together.
    pub fn heads(&self) -> usize {
        self.heads.len()
    }

    /// How many positions there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Panels that the values' columns fill.
    pub fn panels_of_values(&self) -> usize {
        self.head_dim.div_ceil(PANEL)
    }

    /// Columns of a panel of keys.
    pub fn columns_of_keys(&self) -> usize {
        self.head_dim
    }

    /// Adds some positions. `key` and `value` write those of a head and a position, counted from
    /// the first one added.
    pub fn append(
        &mut self,
        count: usize,
        key: impl Fn(usize, usize, &mut [f32]) + Sync,
        value: impl Fn(usize, usize, Range<usize>, &mut [f32]) + Sync,
    ) {
        let (start, len) = (self.len, self.len + count);
        let (panels, head_dim) = (self.panels_of_values(), self.head_dim);
        // The positions, counted as above, that a piece of some positions gets.
        let added = move |first: usize, size: usize| {
            first.max(start) - start..(first + size).min(len).max(start) - start
        };
        let nanoseconds = 4 * count * self.heads.len() * head_dim;
        for kept in &mut self.heads {
            kept.keys.resize(len.div_ceil(PANEL) * head_dim, Columns::ZEROS);
            kept.values.resize(len.div_ceil(TILE) * panels * TILE, Columns::ZEROS);
        }
        let first = start / PANEL;
        let of_keys = self.heads.iter_mut().enumerate().flat_map(|(head, kept)| {
            let columns = kept.keys[first * head_dim..].chunks_mut(head_dim).enumerate();
            columns.map(move |(i, panel)| (head, first + i, panel))
        });
        threads::for_each(nanoseconds, of_keys, |(head, i, panel)| {
            let mut row = vec![0.0; head_dim];
            for at in added(i * PANEL, PANEL) {
                key(head, at, &mut row);
                for (column, number) in panel.iter_mut().zip(row.chunks_exact(1)) {
                    f32::set(column, (start + at) % PANEL, number);
                }
            }
        });
        let first = start / TILE * panels;
        let of_values = self.heads.iter_mut().enumerate().flat_map(|(head, kept)| {
            let columns = kept.values[first * TILE..].chunks_mut(TILE).enumerate();
            columns.map(move |(i, columns)| (head, first + i, columns))
        });
        threads::for_each(nanoseconds / 4, of_values, |(head, i, columns)| {
            let (block, panel) = (i / panels, i % panels);
            let rows = panel * PANEL..head_dim.min((panel + 1) * PANEL);
            for at in added(block * TILE, TILE) {
                let place = columns[(start + at) % TILE].numbers_mut();
                value(head, at, rows.clone(), &mut place[..rows.len()]);
            }
        });
        self.len = len;
    }

    /// The panels of some keys of a head, which start at a multiple of 32.
    pub fn keys(&self, head: usize, keys: &Range<usize>) -> &[Columns<f32>] {
        let (first, end) = (keys.start / PANEL, keys.end.div_ceil(PANEL));
        &self.heads[head].keys[first * self.head_dim..end * self.head_dim]
    }

    /// The columns in a panel of values that belong to some keys of one block.
    pub fn values(&self, head: usize, panel: usize, keys: &Range<usize>) -> &[Columns<f32>] {
        let block = keys.start / TILE * self.panels_of_values() + panel;
        let first = block * TILE + keys.start % TILE;
        &self.heads[head].values[first..first + keys.len()]
    }
}
