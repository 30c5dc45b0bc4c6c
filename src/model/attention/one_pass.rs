//! Attention between its projections in one pass on the CPU: a few queries at a time are normed,
//! rotated, scored, weighted and multiplied by the values while they are in the cache.
//!
//! A query's sums are taken in an order that depends on positions alone, so that a token has the same
//! bits alone, after a cache, and in a prompt of any length.

use super::cache::Panels;
use super::softmax::{Scores, softmax};
use super::visible::Visible;
use crate::kernels::linear::{PANEL, PanelMatmul, TILE};
use crate::kernels::memory::{kept, with_scratch};
use crate::kernels::number::Float;
use crate::kernels::threads;
use crate::model::norm::Scale;
use std::borrow::Cow;
use std::ops::Range;

/// Queries, heads counted, that are taken at a time: as many rows as the kernel takes between two
/// visits of a panel.
const ROWS: usize = 96;

/// A row's numbers by blocks.
type Block = [f32; TILE];

/// What attention does to what the projections return.
pub(super) struct OnePass<'a> {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    /// Which head of all that the projections return is the first of the values; keys follow the queries.
    pub values_at: usize,
    /// How many the projections return.
    pub all_heads: usize,
    pub norms: Scales,
    /// Pairs of a head's first numbers that are rotated.
    pub pairs: usize,
    /// Cosines and sines of the positions that are added, `[seq, pairs]`.
    pub rope: (&'a [f32], &'a [f32]),
    pub scores: Scores,
    pub sliding_window: Option<usize>,
    pub causal: bool,
    /// So many first positions all see one another.
    pub prefix: usize,
}

/// The norms of queries, keys and values.
pub(super) struct Scales {
    pub q: Option<Scale>,
    pub k: Option<Scale>,
    pub v: Option<Scale>,
}

/// Keys and values as panels.
pub(super) enum Panelled<'a> {
    /// To which the call's are added.
    Own(&'a mut Panels),
    /// To which another layer has added the call's.
    Shared(Cow<'a, Panels>),
}

impl OnePass<'_> {
    /// Queries, keys and values of some texts, `[batch, seq, all_heads · head_dim]`, to
    /// what attention makes of them and of what was kept, `[batch, seq, heads · head_dim]`. Keys
    /// and values are kept.
    pub fn attend<T: Float>(&self, x: &[T], seq: usize, kept: Panelled) -> Vec<T> {
        // The numbers of a head, counted among all of the projections, at a position of a text.
        let head = |text: usize, at: usize, head: usize| {
            let row = (text * seq + at) * self.all_heads;
            &x[(row + head) * self.head_dim..][..self.head_dim]
        };
        let kept = match kept {
            Panelled::Own(kept) => {
                self.append(x, seq, kept);
                Cow::Borrowed(&*kept)
            }
            Panelled::Shared(kept) => kept,
        };
        let kept = &*kept;
        let start = kept.len().saturating_sub(seq);
        let width = self.heads * self.head_dim;
        let mut out = vec![T::zero(); x.len() / (self.all_heads * self.head_dim) * width];
        let queries = (ROWS / (self.heads / self.kv_heads)).max(1);
        // A multiplication for each query, key and number, twice, at 20 a nanosecond.
        let nanoseconds = x.len() * kept.len() / 10;
        let texts = out.chunks_mut((seq * width).max(1)).enumerate();
        let tiles = texts.flat_map(|(text, out)| {
            let tiles = out.chunks_mut(queries * width).enumerate();
            tiles.map(move |(i, out)| (text, i * queries, out))
        });
        threads::for_each(nanoseconds, tiles, |(text, first, out)| {
            let queries = first..first + out.len() / width;
            for kv_head in 0..self.kv_heads {
                let tile = Tile { attention: self, kept, text, kv_head, start, queries: &queries };
                tile.attend(|at, of_all| head(text, at, of_all), out);
            }
        });
        out
    }

    /// Adds the call's keys and values to those that are kept.
    fn append<T: Float>(&self, x: &[T], seq: usize, kept: &mut Panels) {
        let head = |text: usize, at: usize, head: usize| {
            let row = (text * seq + at) * self.all_heads;
            &x[(row + head) * self.head_dim..][..self.head_dim]
        };
        let split = |of_all: usize| (of_all / self.kv_heads, of_all % self.kv_heads);
        kept.append(
            seq,
            |of_all, at, key| {
                let (text, kv_head) = split(of_all);
                T::to_f32s(head(text, at, self.heads + kv_head), key);
                self.turn(self.norms.k.as_ref(), at, key);
            },
            |of_all, at, columns, value| {
                let (text, kv_head) = split(of_all);
                let row = head(text, at, self.values_at + kv_head);
                match &self.norms.v {
                    None => T::to_f32s(&row[columns], value),
                    // A panel's columns: the mean is that of the whole head.
                    Some(norm) => {
                        let mut whole = vec![0.0; self.head_dim];
                        T::to_f32s(row, &mut whole);
                        norm.apply(&mut whole);
                        value.copy_from_slice(&whole[columns]);
                    }
                }
            },
        );
    }

    /// Norms a head of a query or a key and rotates it to its position.
    fn turn(&self, norm: Option<&Scale>, at: usize, x: &mut [f32]) {
        if let Some(norm) = norm {
            norm.apply(x);
        }
        let half = self.pairs;
        let (cos, sin) = (&self.rope.0[at * half..][..half], &self.rope.1[at * half..][..half]);
        let (first, second) = x.split_at_mut(half);
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
        }
    }
}

/// Some queries of one text, with the heads that share a key head.
struct Tile<'a> {
    attention: &'a OnePass<'a>,
    kept: &'a Panels,
    text: usize,
    kv_head: usize,
    /// The position of the first query of all.
    start: usize,
    /// Counted from that one.
    queries: &'a Range<usize>,
}

impl Tile<'_> {
    /// How many heads share the key head.
    fn group(&self) -> usize {
        self.attention.heads / self.attention.kv_heads
    }

    /// Queries by heads.
    fn rows(&self) -> usize {
        self.queries.len() * self.group()
    }

    /// The key head among those of all texts.
    fn head(&self) -> usize {
        self.text * self.attention.kv_heads + self.kv_head
    }

    /// Writes this tile's heads of `out`, `[queries, heads · head_dim]`. `query` returns the numbers
    /// of a head of a query.
    fn attend<'x, T: Float>(&self, query: impl Fn(usize, usize) -> &'x [T], out: &mut [T]) {
        kept!(QUERIES, WEIGHTS, SUMS);
        let OnePass { heads, head_dim, sliding_window, causal, prefix, .. } = *self.attention;
        let visible = Visible {
            queries: self.start + self.queries.start..self.start + self.queries.end,
            keys: 0..self.kept.len(),
            window: sliding_window.unwrap_or(usize::MAX),
            causal,
            prefix,
        };
        let pieces = pieces(&visible.clone().trimmed().keys);
        let rows = self.rows();
        let blocks = head_dim.div_ceil(TILE);
        let width = self.kept.panels_of_values() * PANEL;
        with_scratch(&QUERIES, blocks * rows, |queries: &mut [Block]| {
            with_scratch(&WEIGHTS, pieces.len() * rows, |weights: &mut [Block]| {
                with_scratch(&SUMS, rows * width, |sums: &mut [f32]| {
                    self.queries(query, queries);
                    self.scores(queries, &pieces, weights);
                    let totals = self.weights(&visible, &pieces, weights);
                    self.values(weights, &pieces, sums, width);
                    for (row, (sums, total)) in sums.chunks_mut(width).zip(totals).enumerate() {
                        let sums = &mut sums[..head_dim];
                        let inverse = 1.0 / total;
                        sums.iter_mut().for_each(|x| *x = (f64::from(*x) * inverse) as f32);
                        let head = self.kv_head * self.group() + row % self.group();
                        let out = &mut out[(row / self.group() * heads + head) * head_dim..];
                        T::from_f32s(sums, &mut out[..head_dim]);
                    }
                });
            });
        });
    }

    /// The queries, normed and rotated: `[blocks of head_dim, rows]`.
    fn queries<'x, T: Float>(&self, query: impl Fn(usize, usize) -> &'x [T], blocks: &mut [Block]) {
        let OnePass { head_dim, norms, .. } = self.attention;
        let norm = norms.q.as_ref();
        let mut numbers = vec![0.0; *head_dim];
        for row in 0..self.rows() {
            let at = self.queries.start + row / self.group();
            let head = self.kv_head * self.group() + row % self.group();
            T::to_f32s(query(at, head), &mut numbers);
            self.attention.turn(norm, at, &mut numbers);
            for (block, numbers) in numbers.chunks(TILE).enumerate() {
                blocks[block * self.rows() + row][..numbers.len()].copy_from_slice(numbers);
            }
        }
    }

    /// `queries·keysᵀ`, piece by piece: `[pieces, rows]`.
    fn scores(&self, queries: &[Block], pieces: &[Range<usize>], scores: &mut [Block]) {
        for (keys, scores) in pieces.iter().zip(scores.chunks_mut(self.rows())) {
            let columns = keys.len().next_multiple_of(PANEL);
            scores.iter_mut().for_each(|row| row[..columns].fill(0.0));
            PanelMatmul::<f32, f32> {
                x: queries,
                rows: self.rows(),
                panels: self.kept.keys(self.head(), keys),
                steps: self.kept.columns_of_keys(),
                sums: scores.as_flattened_mut(),
                width: TILE,
            }
            .add();
        }
    }

    /// The scores' exponentials, in their place, with 0 at keys that a query does not see, and each
    /// row's sum of them.
    fn weights(
        &self,
        visible: &Visible,
        pieces: &[Range<usize>],
        scores: &mut [Block],
    ) -> Vec<f64> {
        let (rows, group) = (self.rows(), self.group());
        let total = |row: usize| {
            let seen = visible.range(visible.queries.start + row / group);
            let mut parts = vec![];
            for (keys, scores) in pieces.iter().zip(scores.chunks_mut(rows)) {
                let index = |key: usize| key.clamp(keys.start, keys.end) - keys.start;
                let (first, end) = (index(seen.start), index(seen.end));
                let all = &mut scores[row][..keys.len()];
                all[..first].fill(0.0);
                all[end..].fill(0.0);
                parts.push(&mut all[first..end]);
            }
            softmax(self.attention.scores, &mut parts)
        };
        (0..rows).map(total).collect()
    }

    /// `weights·values`: `[rows, width]`.
    fn values(&self, weights: &[Block], pieces: &[Range<usize>], sums: &mut [f32], width: usize) {
        sums.fill(0.0);
        for (keys, weights) in pieces.iter().zip(weights.chunks(self.rows())) {
            for panel in 0..self.kept.panels_of_values() {
                let panels = self.kept.values(self.head(), panel, keys);
                let sums = &mut sums[panel * PANEL..];
                let (rows, steps) = (self.rows(), panels.len());
                PanelMatmul::<f32, f32> { x: weights, rows, panels, steps, sums, width }.add();
            }
        }
    }
}

/// Keys in pieces that end where blocks of positions end, the first from a panel's first key on.
fn pieces(keys: &Range<usize>) -> Vec<Range<usize>> {
    let first = keys.start / PANEL * PANEL;
    let blocks = first / TILE..keys.end.div_ceil(TILE);
    blocks.map(|i| first.max(i * TILE)..keys.end.min((i + 1) * TILE)).collect()
}
