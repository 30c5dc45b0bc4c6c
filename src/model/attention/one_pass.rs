//! Attention between its projections in one pass on the CPU: a few queries at a time are normed,
//! rotated, scored, weighted and multiplied by the values while they are in the cache.
//!
//! A query's sums are taken in an order that depends on positions alone, so that a token has the same
//! bits alone, after a cache, and in a prompt of any length.

use super::cache::Panels;
use super::padding::Padding;
use super::softmax::{Scores, softmax};
use super::visible::{Reach, Visible};
use crate::kernels::linear::{PANEL, PanelMatmul, TILE};
use crate::kernels::memory::{kept, with_scratch};
use crate::kernels::number::Float;
use crate::kernels::operands::with_slice;
use crate::kernels::threads;
use crate::model::norm::Scale;
use crate::model::rope::RotaryEmbedding;
use candle_core::{Device, Result};
use std::ops::Range;

/// Queries, heads counted, that are taken at a time: as many rows as the kernel takes between two
/// visits of a panel.
const ROWS: usize = 96;

/// A row's numbers by blocks.
type Block = [f32; TILE];

/// The rotation of a call's positions.
#[derive(Clone, Copy, Default)]
pub(super) struct Rotation<'a> {
    /// Pairs of a head's first numbers that are rotated; 0 where none are.
    pairs: usize,
    /// Cosines and sines, `[seq, pairs]`.
    tables: (&'a [f32], &'a [f32]),
}

impl Rotation<'_> {
    /// Runs something with the rotation of `seq` positions from `start` on, or of none.
    pub fn with<R>(
        rope: Option<&RotaryEmbedding>,
        start: usize,
        seq: usize,
        run: impl FnOnce(Rotation) -> R,
    ) -> Result<R> {
        let Some(rope) = rope else { return Ok(run(Rotation::default())) };
        let (cos, sin) = rope.rows(start, seq, &Device::Cpu)?;
        with_slice(&cos, |cos| {
            with_slice(&sin, |sin| run(Rotation { pairs: rope.pairs(), tables: (cos, sin) }))
        })?
    }

    /// Norms a head of a query or a key and rotates it to its position.
    fn turn(&self, norm: Option<&Scale>, at: usize, x: &mut [f32]) {
        if let Some(norm) = norm {
            norm.apply(x);
        }
        let half = self.pairs;
        let (cos, sin) = (&self.tables.0[at * half..][..half], &self.tables.1[at * half..][..half]);
        let (first, second) = x.split_at_mut(half);
        for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
        }
    }
}

/// The heads in what projections return, `[batch, seq, all · head_dim]`.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub all: usize,
    pub head_dim: usize,
}

impl Heads {
    /// The numbers of a head at a position of a text.
    fn of<T>(self, x: &[T], seq: usize, text: usize, at: usize, head: usize) -> &[T] {
        let row = (text * seq + at) * self.all;
        &x[(row + head) * self.head_dim..][..self.head_dim]
    }
}

/// Keys and values in what projections return.
pub(super) struct Added<'a> {
    pub heads: Heads,
    pub kv_heads: usize,
    /// Which head is the first of the keys.
    pub keys_at: usize,
    /// And of the values.
    pub values_at: usize,
    pub key_norm: Option<Scale>,
    pub value_norm: Option<Scale>,
    pub rotation: Rotation<'a>,
}

impl Added<'_> {
    /// Adds those of `seq` positions of each text to those that are kept.
    pub fn to<T: Float>(&self, x: &[T], seq: usize, kept: &mut Panels) {
        let Self { heads, kv_heads, .. } = *self;
        let split = |of_all: usize| (of_all / kv_heads, of_all % kv_heads);
        let normed = self.value_norm.as_ref().map(|norm| self.normed_values(norm, x, seq));
        kept.append(
            seq,
            |of_all, at, key| {
                let (text, kv_head) = split(of_all);
                T::to_f32s(heads.of(x, seq, text, at, self.keys_at + kv_head), key);
                self.rotation.turn(self.key_norm.as_ref(), at, key);
            },
            |of_all, at, columns, value| {
                let (text, kv_head) = split(of_all);
                match &normed {
                    None => {
                        let row = heads.of(x, seq, text, at, self.values_at + kv_head);
                        T::to_f32s(&row[columns], value);
                    }
                    Some(normed) => {
                        let row = ((text * seq + at) * kv_heads + kv_head) * heads.head_dim;
                        value.copy_from_slice(&normed[row..][..heads.head_dim][columns]);
                    }
                }
            },
        );
    }

    /// All values, each head normed once: panels take them by columns. `[batch, seq, kv_heads, head_dim]`.
    fn normed_values<T: Float>(&self, norm: &Scale, x: &[T], seq: usize) -> Vec<f32> {
        let Self { heads, kv_heads, .. } = *self;
        let rows = x.len() / (heads.all * heads.head_dim).max(1);
        let mut values = vec![0.0; rows * kv_heads * heads.head_dim];
        let nanoseconds = values.len();
        let row = kv_heads * heads.head_dim;
        threads::for_each(nanoseconds, values.chunks_mut(row.max(1)).enumerate(), |(at, row)| {
            for (kv_head, value) in row.chunks_mut(heads.head_dim).enumerate() {
                T::to_f32s(heads.of(x, seq, at / seq, at % seq, self.values_at + kv_head), value);
                norm.apply(value);
            }
        });
        values
    }
}

/// Keys and values that queries see: their own text's, or an encoder's.
pub(super) struct Source<'a> {
    pub panels: &'a Panels,
    pub sight: Sight,
    /// Which of the keys are padding.
    pub padding: Option<&'a Padding>,
}

/// Which keys of a source a query sees, padding aside.
#[derive(Clone, Copy)]
pub(super) enum Sight {
    /// Those in reach of its position, where the call's first query is at a position.
    Reach(usize, Reach),
    /// All.
    All,
}

impl Source<'_> {
    /// The keys that the query at a place in the call sees.
    fn range(&self, query: usize) -> Range<usize> {
        match self.sight {
            Sight::All => 0..self.panels.len(),
            Sight::Reach(start, reach) => {
                let query = start + query;
                Visible { queries: query..query + 1, keys: 0..self.panels.len(), reach }
                    .range(query)
            }
        }
    }

    /// The keys that any of some queries sees.
    fn trimmed(&self, queries: &Range<usize>) -> Range<usize> {
        self.range(queries.start).start..self.range(queries.end - 1).end
    }

    /// Whether the query at a place in the call sees a key in its range: tokens, and padding itself.
    fn shows(&self, text: usize, query: usize, key: usize) -> bool {
        let is_own = matches!(self.sight, Sight::Reach(start, _) if start + query == key);
        is_own || self.padding.is_none_or(|padding| padding.is_token(text, key))
    }
}

/// What attention does to what the projections return.
pub(super) struct OnePass<'a> {
    pub heads: usize,
    pub kv_heads: usize,
    /// Among which the queries are the first.
    pub projected: Heads,
    pub query_norm: Option<Scale>,
    pub rotation: Rotation<'a>,
    pub scores: Scores,
    /// Under one softmax, in this order.
    pub sources: &'a [Source<'a>],
}

impl OnePass<'_> {
    /// Queries of some texts, among what the projections return, `[batch, seq, all · head_dim]`, to what attention makes of
    /// them and of the keys and values that they see, `[batch, seq, heads · head_dim]`.
    pub fn attend<T: Float>(&self, x: &[T], seq: usize) -> Vec<T> {
        let Heads { all, head_dim } = self.projected;
        let width = self.heads * head_dim;
        let mut out = vec![T::zero(); x.len() / (all * head_dim) * width];
        let queries = (ROWS / (self.heads / self.kv_heads)).max(1);
        // A multiplication for each query, key and number, twice, at 20 a nanosecond.
        let keys: usize = self.sources.iter().map(|source| source.panels.len()).sum();
        let nanoseconds = x.len() * keys / 10;
        let texts = out.chunks_mut((seq * width).max(1)).enumerate();
        let tiles = texts.flat_map(|(text, out)| {
            let tiles = out.chunks_mut(queries * width).enumerate();
            tiles.map(move |(i, out)| (text, i * queries, out))
        });
        threads::for_each(nanoseconds, tiles, |(text, first, out)| {
            let queries = first..first + out.len() / width;
            for kv_head in 0..self.kv_heads {
                let tile = Tile { attention: self, text, kv_head, queries: &queries };
                tile.attend(|at, head| self.projected.of(x, seq, text, at, head), out);
            }
        });
        out
    }
}

/// Some queries of one text, with the heads that share a key head.
struct Tile<'a> {
    attention: &'a OnePass<'a>,
    text: usize,
    kv_head: usize,
    /// Their places in the call.
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
        let OnePass { heads, projected: Heads { head_dim, .. }, sources, .. } = *self.attention;
        let pieces: Vec<_> = sources
            .iter()
            .flat_map(|source| {
                let pieces = pieces(&source.trimmed(self.queries));
                pieces.into_iter().map(move |keys| Piece { source, keys })
            })
            .collect();
        let rows = self.rows();
        let blocks = head_dim.div_ceil(TILE);
        let width = head_dim.next_multiple_of(PANEL);
        with_scratch(&QUERIES, blocks * rows, |queries: &mut [Block]| {
            with_scratch(&WEIGHTS, pieces.len() * rows, |weights: &mut [Block]| {
                with_scratch(&SUMS, rows * width, |sums: &mut [f32]| {
                    self.queries(query, queries);
                    self.scores(queries, &pieces, weights);
                    let totals = self.weights(&pieces, weights);
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
        let OnePass { query_norm, rotation, .. } = self.attention;
        let mut numbers = vec![0.0; self.attention.projected.head_dim];
        for row in 0..self.rows() {
            let at = self.queries.start + row / self.group();
            let head = self.kv_head * self.group() + row % self.group();
            T::to_f32s(query(at, head), &mut numbers);
            rotation.turn(query_norm.as_ref(), at, &mut numbers);
            for (block, numbers) in numbers.chunks(TILE).enumerate() {
                blocks[block * self.rows() + row][..numbers.len()].copy_from_slice(numbers);
            }
        }
    }

    /// `queries·keysᵀ`, piece by piece: `[pieces, rows]`.
    fn scores(&self, queries: &[Block], pieces: &[Piece], scores: &mut [Block]) {
        for (Piece { source, keys }, scores) in pieces.iter().zip(scores.chunks_mut(self.rows())) {
            let columns = keys.len().next_multiple_of(PANEL);
            scores.iter_mut().for_each(|row| row[..columns].fill(0.0));
            PanelMatmul::<f32, f32> {
                x: queries,
                rows: self.rows(),
                panels: source.panels.keys(self.head(), keys),
                steps: source.panels.columns_of_keys(),
                sums: scores.as_flattened_mut(),
                width: TILE,
            }
            .add();
        }
    }

    /// The scores' exponentials, in their place, with 0 at keys that a query does not see, and each
    /// row's sum of them.
    fn weights(&self, pieces: &[Piece], scores: &mut [Block]) -> Vec<f64> {
        let (rows, group) = (self.rows(), self.group());
        let total = |row: usize| {
            let query = self.queries.start + row / group;
            let mut parts = vec![];
            for (piece, scores) in pieces.iter().zip(scores.chunks_mut(rows)) {
                piece.seen(self.text, query, &mut scores[row][..piece.keys.len()], &mut parts);
            }
            softmax(self.attention.scores, &mut parts)
        };
        (0..rows).map(total).collect()
    }

    /// `weights·values`: `[rows, width]`.
    fn values(&self, weights: &[Block], pieces: &[Piece], sums: &mut [f32], width: usize) {
        sums.fill(0.0);
        for (Piece { source, keys }, weights) in pieces.iter().zip(weights.chunks(self.rows())) {
            for panel in 0..source.panels.panels_of_values() {
                let panels = source.panels.values(self.head(), panel, keys);
                let sums = &mut sums[panel * PANEL..];
                let (rows, steps) = (self.rows(), panels.len());
                PanelMatmul::<f32, f32> { x: weights, rows, panels, steps, sums, width }.add();
            }
        }
    }
}

/// Some keys of a source, all of one block.
struct Piece<'a> {
    source: &'a Source<'a>,
    keys: Range<usize>,
}

impl Piece<'_> {
    /// Adds to `parts` the scores of the keys that a query sees, run after run, and sets the others to 0.
    fn seen<'s>(
        &self,
        text: usize,
        query: usize,
        scores: &'s mut [f32],
        parts: &mut Vec<&'s mut [f32]>,
    ) {
        let Self { source, keys } = self;
        let seen = source.range(query);
        let index = |key: usize| key.clamp(keys.start, keys.end) - keys.start;
        let (first, end) = (index(seen.start), index(seen.end));
        let (before, rest) = scores.split_at_mut(first);
        let (rest, behind) = rest.split_at_mut(end - first);
        before.fill(0.0);
        behind.fill(0.0);
        if source.padding.is_none() {
            parts.push(rest);
            return;
        }
        let shows = |at: usize| source.shows(text, query, keys.start + at);
        let (mut rest, mut at) = (rest, first);
        while at < end {
            let shown = shows(at);
            let run = (at..end).take_while(|&at| shows(at) == shown).count();
            let (part, others) = rest.split_at_mut(run);
            match shown {
                true => parts.push(part),
                false => part.fill(0.0),
            }
            (rest, at) = (others, at + run);
        }
    }
}

/// Keys in pieces that end where blocks of positions end, the first from a panel's first key on.
fn pieces(keys: &Range<usize>) -> Vec<Range<usize>> {
    let first = keys.start / PANEL * PANEL;
    let blocks = first / TILE..keys.end.div_ceil(TILE);
    blocks.map(|i| first.max(i * TILE)..keys.end.min((i + 1) * TILE)).collect()
}
