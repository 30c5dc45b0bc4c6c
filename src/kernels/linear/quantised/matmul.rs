//! Products with quantised panels: a few rows of x as the numbers come, many with tiles that were dequantised before.

use super::format::{Format, OCTET, numbers};
use super::formats::with_format;
use super::pack::Blocks;
use crate::kernels::linear::ahead::{Line, prefetch};
use crate::kernels::linear::kernel::{GROUP, MulAdd, Next, TILE, multiply_tile, tiles_at_a_time};
use crate::kernels::linear::stored::{Columns, PANEL};
use crate::kernels::memory::{kept, with_scratch};
use pulp::{Arch, Simd, WithSimd, bytemuck};
use std::marker::PhantomData;
use std::ops::Range;

/// How far ahead of its use a panel is fetched: more than the largest group has, since its last words are used with its first.
const AHEAD_BYTES: usize = 8192;

/// Some panels of quantised weights, one behind the other, times rows of x.
pub struct BlockMatmul<'a> {
    /// The tiles of x: `[tiles, rows]`.
    pub x: &'a [[f32; TILE]],
    /// How many rows x has.
    pub rows: usize,
    pub blocks: &'a Blocks,
    pub panels: Range<usize>,
    /// Columns of the weight.
    pub columns: usize,
    /// To which the products are added: `[rows, panels · PANEL]` inside rows of some width.
    pub sums: &'a mut [f32],
    pub width: usize,
}

impl BlockMatmul<'_> {
    /// Does the work with the widest vectors that the machine has.
    pub fn add(self) {
        Arch::new().dispatch(self);
    }
}

impl WithSimd for BlockMatmul<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, rows, blocks, panels, columns, sums, width } = self;
        let tiles = columns.div_ceil(TILE);
        let step = tiles_at_a_time(rows);
        kept!(DEQUANTISED);
        // One more than a tile has, since scratch begins at no cache line.
        with_scratch(&DEQUANTISED, (TILE + 1) * PANEL, |memory: &mut [f32]| {
            let (_, memory, _) = bytemuck::pod_align_to_mut::<f32, Columns<f32>>(memory);
            for first in (0..tiles).step_by(step) {
                for start in (0..rows).step_by(GROUP) {
                    let group = GROUP.min(rows - start);
                    for (at, &panel) in blocks.panels(panels.clone()).iter().enumerate() {
                        let sums = &mut sums[start * width + at * PANEL..];
                        for t in first..tiles.min(first + step) {
                            let x = &x[t * rows + start..][..group];
                            let len = TILE.min(columns - t * TILE);
                            with_format!(panel.kind, F => {
                                let words = &blocks.from(panel)[t * (TILE / F::GROUP) * F::WORDS..];
                                multiply::<F, S>(simd, words, len, x, memory, sums, width);
                            }, unreachable!("other kinds have no panels"));
                        }
                    }
                }
            }
        });
    }
}

/// A tile of a panel times some rows of x: a few by numbers as they are dequantised, in registers; with more it pays to write
/// these down.
#[inline(always)]
fn multiply<F: Format, S: Simd>(
    simd: S,
    words: &[Columns<u32>],
    len: usize,
    x: &[[f32; TILE]],
    memory: &mut [Columns<f32>],
    sums: &mut [f32],
    width: usize,
) {
    match x.len() {
        1 => few::<F, S, 1>(simd, words, len, x, sums, width),
        2 => few::<F, S, 2>(simd, words, len, x, sums, width),
        3 => few::<F, S, 3>(simd, words, len, x, sums, width),
        // 16 registers do not hold the sums of four.
        4 if S::F32_LANES == 16 => few::<F, S, 4>(simd, words, len, x, sums, width),
        _ => {
            let numbers = &mut memory[..len];
            dequantise::<F, S>(simd, words, numbers);
            let next = Next { weight: numbers.as_ptr(), x: None }; // nothing more
            multiply_tile(MulAdd(simd), x, numbers, next, sums, width);
        }
    }
}

/// Dequantises the columns of a tile.
#[inline(never)]
fn dequantise<F: Format, S: Simd>(simd: S, words: &[Columns<u32>], out: &mut [Columns<f32>]) {
    struct Dequantise<'a, F>(&'a [Columns<u32>], &'a mut [Columns<f32>], PhantomData<F>);
    impl<F: Format> WithSimd for Dequantise<'_, F> {
        type Output = ();
        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self(words, out, _) = self;
            for (out, group) in out.chunks_mut(F::GROUP).zip(words.chunks_exact(F::WORDS)) {
                for at in 0..PANEL / S::F32_LANES {
                    numbers::<F, S, 1>(
                        simd,
                        group,
                        at,
                        |_| {},
                        |column, [numbers]| {
                            // The last group may have columns that the tile has not.
                            if let Some(out) = out.get_mut(column) {
                                S::as_mut_simd_f32s(out.numbers_mut()).0[at] = numbers;
                            }
                        },
                    );
                }
            }
        }
    }
    simd.vectorize(Dequantise::<F>(words, out, PhantomData));
}

/// A tile of a panel times `R` rows of x.
#[inline(never)]
fn few<F: Format, S: Simd, const R: usize>(
    simd: S,
    words: &[Columns<u32>],
    len: usize,
    x: &[[f32; TILE]],
    sums: &mut [f32],
    width: usize,
) {
    if let Some(x) = x.first_chunk::<R>() {
        simd.vectorize(Few::<F, R> { words, len, x, sums, width, format: PhantomData });
    }
}

struct Few<'a, F, const R: usize> {
    words: &'a [Columns<u32>],
    /// Columns.
    len: usize,
    x: &'a [[f32; TILE]; R],
    sums: &'a mut [f32],
    width: usize,
    format: PhantomData<F>,
}

impl<F: Format, const R: usize> WithSimd for Few<'_, F, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        // As many sums as the registers can hold beside what is on the way to them.
        match (S::F32_LANES, R) {
            (4 | 8 | 16, _) => self.all::<S, 2>(simd),
            _ => self.all::<S, 1>(simd),
        }
    }
}

impl<F: Format, const R: usize> Few<'_, F, R> {
    /// `V` vectors at a time.
    #[inline(always)]
    fn all<S: Simd, const V: usize>(&mut self, simd: S) {
        for at in (0..PANEL / S::F32_LANES).step_by(V) {
            self.vectors::<S, V>(simd, at);
        }
    }

    /// The products with `V` vectors from the `at`-th on. Its loops go by index, as those of the other kernels do.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn vectors<S: Simd, const V: usize>(&mut self, simd: S, at: usize) {
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for g in 0..self.len.div_ceil(F::GROUP) {
            let group = &self.words[g * F::WORDS..][..F::WORDS];
            let ahead = group.as_ptr().wrapping_byte_add(AHEAD_BYTES);
            let first = g * F::GROUP;
            // All of the words that come, spread evenly: a processor fetches few lines at once.
            let fetch = |octet: usize| {
                let bytes = size_of::<Columns<u32>>() * F::WORDS * OCTET / F::GROUP;
                let lines = bytes.div_ceil(size_of::<Line>());
                let ahead = ahead.wrapping_byte_add(octet * bytes).cast::<Line>();
                (0..lines).for_each(|line| prefetch(ahead.wrapping_add(line)));
            };
            numbers::<F, S, V>(simd, group, at, fetch, |column, numbers| {
                for r in 0..R {
                    let x = simd.splat_f32s(self.x[r][first + column]);
                    for v in 0..V {
                        sums[r][v] = simd.mul_add_e_f32s(numbers[v], x, sums[r][v]);
                    }
                }
            });
        }
        for r in 0..R {
            let row = S::as_mut_simd_f32s(&mut self.sums[r * self.width..][..PANEL]).0;
            for v in 0..V {
                row[at + v] = simd.add_f32s(row[at + v], sums[r][v]);
            }
        }
    }
}
