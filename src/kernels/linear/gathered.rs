//! Rows of one x for several products, of which each takes some.

use super::kernel::TILE;
use super::panels::Panels;
use super::rows::{Rows, TileType};
use crate::kernels::memory::with_scratch;
use crate::kernels::number::Float;
use crate::kernels::threads;
use half::bf16;

impl Panels {
    /// Calls `f` with some rows of x, `[count, in]`, for each group that says which, for products with this
    /// weight and its like.
    pub(crate) fn with_gathered<T: Float, R>(
        &self,
        x: &[T],
        groups: &[&[u32]],
        f: impl FnOnce(&[Rows]) -> R,
    ) -> R {
        match self.takes_bf16::<T>() {
            true => gathered::<T, bf16, R>(x, self.in_features(), groups, f),
            false => gathered::<T, f32, R>(x, self.in_features(), groups, f),
        }
    }
}

fn gathered<T: Float, B: TileType, R>(
    x: &[T],
    columns: usize,
    groups: &[&[u32]],
    f: impl FnOnce(&[Rows]) -> R,
) -> R {
    /// Tiles that a thread fills at a time.
    const CHUNK: usize = 64;
    let tiles = columns.div_ceil(TILE);
    let counts: Vec<usize> = groups.iter().map(|rows| rows.len()).collect();
    let len = tiles * counts.iter().sum::<usize>();
    let [kept, _] = B::kept();
    with_scratch(kept, len, |memory: &mut [[B; TILE]]| {
        let chunks = split_mut(memory, tiles, &counts).zip(groups).flat_map(|(tiles, &rows)| {
            let chunks = tiles.chunks_mut(CHUNK).enumerate();
            chunks.map(move |(chunk, tiles)| (rows, chunk * CHUNK, tiles))
        });
        threads::for_each(len * TILE / 4, chunks, |(rows, first, tiles)| {
            for (i, tile) in tiles.iter_mut().enumerate() {
                let (i, count) = (first + i, rows.len());
                let (first, row) = (i / count * TILE, rows[i % count] as usize);
                let len = TILE.min(columns - first);
                B::convert(&x[row * columns + first..][..len], &mut tile[..len]);
                tile[len..].fill(B::zero());
            }
        });
        f(&as_rows(memory, tiles, &counts))
    })
}

/// Tiles of several groups of rows, one behind the other, split into those of each: of `tiles` tiles a row.
pub(crate) fn split_mut<'a, B: Send>(
    mut memory: &'a mut [B],
    tiles: usize,
    counts: &[usize],
) -> impl Iterator<Item = &'a mut [B]> + Send {
    counts.iter().map(move |count| {
        let (first, rest) = std::mem::take(&mut memory).split_at_mut(tiles * count);
        memory = rest;
        first
    })
}

/// The same as rows for products.
pub(crate) fn as_rows<'a, B: TileType>(
    mut memory: &'a [[B; TILE]],
    tiles: usize,
    counts: &[usize],
) -> Vec<Rows<'a>> {
    let rows = counts.iter().map(|&count| {
        let (first, rest) = memory.split_at(tiles * count);
        memory = rest;
        B::rows(first, count)
    });
    rows.collect()
}
