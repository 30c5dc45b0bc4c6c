//! The left side of a product as the kernels read it.

use super::kernel::TILE;
use super::quantised::{Blocks, Input};
use crate::kernels::memory::{Kept, kept, with_scratch};
use crate::kernels::number::Float;
use crate::kernels::threads;
use half::bf16;
use pulp::bytemuck::Pod;
use std::thread::LocalKey;

/// Rows of x, in tiles of columns: `[columns / TILE, count, TILE]`. A tile of some rows is one
/// piece of memory then, which no stride maps onto the same cache lines.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub(super) tiles: Tiles<'a>,
    count: usize,
}

/// What x comes in.
#[derive(Clone, Copy)]
pub(super) enum Tiles<'a> {
    F32(&'a [[f32; TILE]]),
    /// For quantised weights.
    Codes(Input<'a>),
    /// For weights in bf16 on a machine that multiplies it with bf16.
    BF16(&'a [[bf16; TILE]]),
}

/// A type that tiles come in.
pub trait TileType: Float + Pod {
    /// Tiles that are filled, `[columns / TILE, count]`, as rows. What is behind the last column
    /// must be 0.
    fn rows(tiles: &[[Self; TILE]], count: usize) -> Rows<'_>;

    /// Writes numbers of a type as those of tiles, rounded where these are narrower.
    fn convert<T: Float>(from: &[T], to: &mut [Self]);

    /// Memory for x, and for what lies between two products.
    fn kept() -> [&'static LocalKey<Kept>; 2];
}

macro_rules! tile_type {
    ($t:ident, $variant:ident, $convert:expr) => {
        impl TileType for $t {
            fn rows(tiles: &[[$t; TILE]], count: usize) -> Rows<'_> {
                Rows { tiles: Tiles::$variant(tiles), count }
            }

            fn convert<T: Float>(from: &[T], to: &mut [$t]) {
                let convert: fn(&[T], &mut [$t]) = $convert;
                convert(from, to);
            }

            fn kept() -> [&'static LocalKey<Kept>; 2] {
                kept!(X, BETWEEN);
                [&X, &BETWEEN]
            }
        }
    };
}

tile_type!(f32, F32, T::to_f32s);
tile_type!(bf16, BF16, T::to_bf16s);

impl Rows<'_> {
    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Calls `f` with the same rows, ready for quantised weights.
    pub(super) fn with_codes<R>(self, weights: &Blocks, f: impl FnOnce(Rows) -> R) -> R {
        match self.tiles {
            Tiles::F32(tiles) => Input::with(tiles, weights.units(), |input| {
                f(Rows { tiles: Tiles::Codes(input), ..self })
            }),
            _ => f(self),
        }
    }

    /// Calls `f` with the rows of x, `[count, columns]`, as tiles of a type.
    pub fn with<T: Float, B: TileType, R>(x: &[T], columns: usize, f: impl FnOnce(Rows) -> R) -> R {
        /// Tiles that a thread fills at a time.
        const CHUNK: usize = 64;
        let count = x.len() / columns.max(1);
        let [kept, _] = B::kept();
        let len = columns.div_ceil(TILE) * count;
        with_scratch(kept, len, |tiles: &mut [[B; TILE]]| {
            let chunks = tiles.chunks_mut(CHUNK).enumerate();
            threads::for_each(len * TILE / 4, chunks, |(chunk, tiles)| {
                for (i, tile) in tiles.iter_mut().enumerate() {
                    let i = chunk * CHUNK + i;
                    let (first, row) = (i / count * TILE, i % count);
                    let len = TILE.min(columns - first);
                    B::convert(&x[row * columns + first..][..len], &mut tile[..len]);
                    tile[len..].fill(B::zero());
                }
            });
            f(B::rows(tiles, count))
        })
    }
}
