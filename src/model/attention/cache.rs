//! Keys and values of the tokens so far.

use crate::linear::{BLOCK, PANEL, Stored};
use candle_nn::kv_cache::KvCache;
use rayon::prelude::*;
use std::ops::Range;

/// Keys and values of a layer's tokens so far; none at first. They are kept as the layer's attention
/// computes with them, so that a cache belongs to one model.
#[derive(Debug, Clone, Default)]
pub struct KeyValues(pub(super) Option<Kept>);

/// How they are kept.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    /// As tensors, `[batch, kv_heads, seq, head_dim]`.
    Tensors(KvCache),
    /// As panels, for attention in one pass.
    Panels(Panels),
}

/// Two neighbouring columns of 32 rows in f32.
type Columns = <f32 as Stored>::Columns;

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
    /// A key is a row: `[len / 32, head_dim / 2]` pairs of columns.
    keys: Vec<Columns>,
    /// A key's position is a column, and blocks of positions follow one another:
    /// `[len / BLOCK, head_dim / 32, BLOCK / 2]` pairs of columns.
    values: Vec<Columns>,
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

    /// Pairs of columns of a panel of keys.
    pub fn pairs_of_keys(&self) -> usize {
        self.head_dim.div_ceil(2)
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
        let (pairs, panels, head_dim) =
            (self.pairs_of_keys(), self.panels_of_values(), self.head_dim);
        // The positions, counted as above, that a piece of some positions gets.
        let added = move |first: usize, size: usize| {
            first.max(start) - start..(first + size).min(len).max(start) - start
        };
        self.heads.par_iter_mut().enumerate().for_each(|(head, kept)| {
            kept.keys.resize(len.div_ceil(PANEL) * pairs, f32::ZEROS);
            kept.values.resize(len.div_ceil(BLOCK) * panels * (BLOCK / 2), f32::ZEROS);
            let first = start / PANEL;
            kept.keys[first * pairs..].par_chunks_mut(pairs).enumerate().for_each(|(i, panel)| {
                let mut row = vec![0.0; 2 * pairs];
                for at in added((first + i) * PANEL, PANEL) {
                    key(head, at, &mut row[..head_dim]);
                    for (columns, &both) in panel.iter_mut().zip(row.as_chunks().0) {
                        f32::set(columns, (start + at) % PANEL, both);
                    }
                }
            });
            let first = start / BLOCK * panels;
            let columns = kept.values[first * (BLOCK / 2)..].par_chunks_mut(BLOCK / 2);
            columns.enumerate().for_each(|(i, columns)| {
                let (block, panel) = ((first + i) / panels, (first + i) % panels);
                let rows = panel * PANEL..head_dim.min((panel + 1) * PANEL);
                for at in added(block * BLOCK, BLOCK) {
                    let column = (start + at) % BLOCK;
                    let place = columns[column / 2].column_mut(column % 2 == 1);
                    value(head, at, rows.clone(), &mut place[..rows.len()]);
                }
            });
        });
        self.len = len;
    }

    /// The panels of some keys of a head, which start at a multiple of 32.
    pub fn keys(&self, head: usize, keys: &Range<usize>) -> &[Columns] {
        let pairs = self.pairs_of_keys();
        &self.heads[head].keys[keys.start / PANEL * pairs..keys.end.div_ceil(PANEL) * pairs]
    }

    /// The pairs of columns in a panel of values that belong to some keys of one block, which start
    /// at an even one.
    pub fn values(&self, head: usize, panel: usize, keys: &Range<usize>) -> &[Columns] {
        let first = (keys.start / BLOCK * self.panels_of_values() + panel) * (BLOCK / 2)
            + keys.start % BLOCK / 2;
        &self.heads[head].values[first..first + keys.len().div_ceil(2)]
    }
}
