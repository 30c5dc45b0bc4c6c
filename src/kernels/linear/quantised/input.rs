//! x as products with codes take it.

use super::format::{BYTES, Format, NIBBLES, Units};
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
    /// Divided by the units in which codes come, if some of the weight's do.
    of_bytes: &'a [[f32; TILE]],
    of_nibbles: &'a [[f32; TILE]],
    sums: &'a [Sums],
}

impl<'a> Input<'a> {
    /// Calls `f` with what tiles of x become for codes in some units.
    pub fn with<R>(tiles: &[[f32; TILE]], units: &[Units], f: impl FnOnce(Input) -> R) -> R {
        kept!(DIVIDED, SUMS);
        let len = |of: &Units| if units.contains(of) { tiles.len() } else { 0 };
        let (bytes, nibbles) = (len(&BYTES), len(&NIBBLES));
        with_scratch(&DIVIDED, bytes + nibbles, |divided: &mut [[f32; TILE]]| {
            with_scratch(&SUMS, tiles.len(), |sums: &mut [Sums]| {
                each(tiles, sums, |tiles, sums| Sum { tiles, sums });
                let (of_bytes, of_nibbles) = divided.split_at_mut(bytes);
                each(tiles, of_bytes, |tiles, divided| Divide { tiles, divided, units: BYTES });
                each(tiles, of_nibbles, |tiles, divided| Divide { tiles, divided, units: NIBBLES });
                f(Input { tiles, of_bytes, of_nibbles, sums })
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
        let some = |tiles: &'a [[f32; TILE]]| tiles.get(all.clone()).unwrap_or_default();
        let (of_bytes, of_nibbles) = (some(self.of_bytes), some(self.of_nibbles));
        Self { tiles: &self.tiles[all.clone()], of_bytes, of_nibbles, sums: &self.sums[all] }
    }

    /// The tiles as a format takes them, and their sums.
    #[inline(always)]
    pub fn of<F: Format>(self) -> (&'a [[f32; TILE]], &'a [Sums]) {
        let tiles = match F::UNITS {
            BYTES => self.of_bytes,
            NIBBLES => self.of_nibbles,
            _ => self.tiles,
        };
        (tiles, self.sums)
    }
}

/// Does some work on every tile of x, and on what belongs to it, if there is any.
fn each<'a, T: Send, W: WithSimd<Output = ()>>(
    tiles: &'a [[f32; TILE]],
    places: &'a mut [T],
    work: impl Fn(&'a [[f32; TILE]], &'a mut [T]) -> W + Sync,
) {
    /// Tiles that a thread takes at a time.
    const CHUNK: usize = 64;
    let chunks = tiles.chunks(CHUNK).zip(places.chunks_mut(CHUNK));
    threads::for_each(tiles.len() * TILE / 16, chunks, |(tiles, places)| {
        Arch::new().dispatch(work(tiles, places));
    });
}

struct Divide<'a> {
    tiles: &'a [[f32; TILE]],
    divided: &'a mut [[f32; TILE]],
    units: Units,
}

impl WithSimd for Divide<'_> {
    type Output = ();

    /// With the vectors that a compiler makes.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        const OCTET: usize = size_of::<Units>() / size_of::<f32>();
        let parts = self.units.map(|unit| 1.0 / unit);
        for (tile, divided) in self.tiles.iter().zip(self.divided) {
            let places = divided.as_chunks_mut::<OCTET>().0.iter_mut();
            for (place, x) in places.zip(tile.as_chunks::<OCTET>().0) {
                for (i, part) in parts.iter().enumerate() {
                    // Exact, down to 2^-101.
                    place[i] = x[i] * part;
                }
            }
        }
    }
}

struct Sum<'a> {
    tiles: &'a [[f32; TILE]],
    sums: &'a mut [Sums],
}

impl WithSimd for Sum<'_> {
    type Output = ();

    /// With the vectors that a compiler makes.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (tile, sums) in self.tiles.iter().zip(self.sums) {
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
