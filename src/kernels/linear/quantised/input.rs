//! x as products with codes take it.

use super::format::{Format, IN_PLACE, QUAD};
use crate::kernels::linear::kernel::TILE;
use crate::kernels::memory::{kept, with_scratch};
use crate::kernels::threads;
use pulp::{Arch, Simd, WithSimd};

/// The least columns that share a scale.
pub const SHORTEST: usize = 16;

/// The sums of every so many columns of a tile, by which codes' zero or an offset is multiplied.
pub type Sums = [f32; TILE / SHORTEST];

/// Tiles of rows of x.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// As they are.
    pub tiles: &'a [[f32; TILE]],
    /// Divided by the units that most codes come in.
    divided: &'a [[f32; TILE]],
    sums: &'a [Sums],
}

impl<'a> Input<'a> {
    /// Calls `f` with what tiles of x become.
    pub fn with<R>(tiles: &[[f32; TILE]], f: impl FnOnce(Input) -> R) -> R {
        /// Tiles that a thread takes at a time.
        const CHUNK: usize = 64;
        kept!(DIVIDED, SUMS);
        with_scratch(&DIVIDED, tiles.len(), |divided: &mut [[f32; TILE]]| {
            with_scratch(&SUMS, tiles.len(), |sums: &mut [Sums]| {
                let to = divided.chunks_mut(CHUNK).zip(sums.chunks_mut(CHUNK));
                let work = tiles.chunks(CHUNK).zip(to);
                threads::for_each(tiles.len() * TILE / 8, work, |(tiles, (divided, sums))| {
                    Arch::new().dispatch(Divide { tiles, divided, sums });
                });
                f(Input { tiles, divided, sums })
            })
        })
    }

    /// How many tiles there are.
    pub fn len(self) -> usize {
        self.tiles.len()
    }

    /// Some of them.
    pub fn narrow(self, start: usize, len: usize) -> Self {
        let all = start..start + len;
        let (tiles, divided) = (&self.tiles[all.clone()], &self.divided[all.clone()]);
        Self { tiles, divided, sums: &self.sums[all] }
    }

    /// The tiles as a format takes them, and their sums.
    #[inline(always)]
    pub fn of<F: Format>(self) -> (&'a [[f32; TILE]], &'a [Sums]) {
        (if F::UNITS == IN_PLACE { self.divided } else { self.tiles }, self.sums)
    }
}

struct Divide<'a> {
    tiles: &'a [[f32; TILE]],
    divided: &'a mut [[f32; TILE]],
    sums: &'a mut [Sums],
}

impl WithSimd for Divide<'_> {
    type Output = ();

    /// With the vectors that a compiler makes.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for ((tile, divided), sums) in self.tiles.iter().zip(self.divided).zip(self.sums) {
            let places = divided.as_chunks_mut::<QUAD>().0.iter_mut();
            for (place, x) in places.zip(tile.as_chunks::<QUAD>().0) {
                for i in 0..QUAD {
                    // Exact, down to 2^-101.
                    place[i] = x[i] * (1.0 / IN_PLACE[i]);
                }
            }
            for (sum, x) in sums.iter_mut().zip(tile.as_chunks::<SHORTEST>().0) {
                // In an order that vectors can have.
                let (mut eight, mut four) = ([0.0; 8], [0.0; 4]);
                for i in 0..8 {
                    eight[i] = x[i] + x[i + 8];
                }
                for i in 0..4 {
                    four[i] = eight[i] + eight[i + 4];
                }
                *sum = (four[0] + four[2]) + (four[1] + four[3]);
            }
        }
    }
}

/// The sum of a run of columns.
#[inline(always)]
pub fn of_run(sums: &[f32], run: usize, shared: usize) -> f32 {
    match shared {
        SHORTEST => sums[run],
        _ => sums[2 * run] + sums[2 * run + 1],
    }
}
