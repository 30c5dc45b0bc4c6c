//! Products with quantised panels: a few rows of x with the codes as they come, many with tiles of codes that were written
//! down before.
//!
//! A run of columns that share a scale is summed by itself, as codes times x; its sum times the scale is added to the rest.
//! That takes a third fewer instructions than to dequantise every weight, and rounds less.

use super::format::{Format, Visit, visit};
use super::formats::with_format;
use super::input::{Input, SHORTEST, Sums, of_run};
use super::pack::{Blocks, Panel};
use super::runs::{Runs, multiply_runs};
use crate::kernels::linear::ahead::prefetch;
use crate::kernels::linear::kernel::{GROUP, TILE, tiles_at_a_time};
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
    pub x: Input<'a>,
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
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut at = 0;
        for panels in self.blocks.panels(self.panels.clone()).chunk_by(|a, b| a.kind == b.kind) {
            with_format!(panels[0].kind, F => {
                self.of_one_kind::<F, S>(simd, panels, at);
            }, unreachable!("other kinds have no panels"));
            at += panels.len();
        }
    }
}

impl BlockMatmul<'_> {
    /// Panels of one format, whose products go behind so many panels'.
    #[inline(never)]
    fn of_one_kind<F: Format, S: Simd>(&mut self, simd: S, panels: &[Panel], at: usize) {
        let Self { x, rows, blocks, columns, ref mut sums, width, .. } = *self;
        let tiles = columns.div_ceil(TILE);
        let step = tiles_at_a_time(rows);
        with_runs(|runs| {
            for first in (0..tiles).step_by(step) {
                for start in (0..rows).step_by(GROUP) {
                    let group = GROUP.min(rows - start);
                    for (i, &panel) in panels.iter().enumerate() {
                        let sums = &mut sums[start * width + (at + i) * PANEL..];
                        for t in first..tiles.min(first + step) {
                            let len = TILE.min(columns - t * TILE);
                            let words = &blocks.from(panel)[t * (TILE / F::GROUP) * F::WORDS..];
                            let words = &words[..len.div_ceil(F::GROUP) * F::WORDS];
                            let x = x.narrow(t * rows + start, group);
                            multiply::<F, S>(simd, words, x, runs, sums, width);
                        }
                    }
                }
            }
        });
    }
}

/// Calls `f` with memory for the codes of a tile.
fn with_runs(f: impl FnOnce(&mut Runs)) {
    kept!(CODES);
    // One more than there is, since scratch begins at no cache line.
    with_scratch(&CODES, (Runs::COLUMNS + 1) * PANEL, |memory: &mut [f32]| {
        let (_, memory, _) = bytemuck::pod_align_to_mut::<f32, Columns<f32>>(memory);
        f(&mut Runs::new(&mut memory[..Runs::COLUMNS]));
    });
}

/// A tile of a panel times some rows of x: a few by codes as they come, in registers; with more it pays to write these down.
#[inline(always)]
fn multiply<F: Format, S: Simd>(
    simd: S,
    words: &[Columns<u32>],
    x: Input,
    runs: &mut Runs,
    sums: &mut [f32],
    width: usize,
) {
    if x.len() > const { most_few::<F, S>() } {
        runs.set::<F, S>(simd, words);
        return multiply_runs::<F, S>(simd, x, runs, sums, width);
    }
    let mut start = 0;
    while start < x.len() {
        let rows = (x.len() - start).min(at_once::<S>());
        let (x, sums) = (x.narrow(start, rows), &mut sums[start * width..]);
        match rows {
            1 => few::<F, S, 1>(simd, words, x, sums, width),
            2 => few::<F, S, 2>(simd, words, x, sums, width),
            3 => few::<F, S, 3>(simd, words, x, sums, width),
            _ if const { at_once::<S>() < 4 } => unreachable!("more rows than are taken at once"),
            _ => few::<F, S, 4>(simd, words, x, sums, width),
        }
        start += rows;
    }
}

/// Rows whose products codes go into as they come: 16 registers do not hold the sums of four.
const fn at_once<S: Simd>() -> usize {
    if S::F32_LANES == 16 { 4 } else { 3 }
}

/// Rows up to which it is faster, as measured with AVX2, not to write codes down.
const fn most_few<F: Format, S: Simd>() -> usize {
    match (S::F32_LANES, F::BITS) {
        (8, 8) => 9,
        (8, 4 | 6) => 6,
        _ => at_once::<S>(),
    }
}

/// A tile of a panel times `R` rows of x.
#[inline(never)]
fn few<F: Format, S: Simd, const R: usize>(
    simd: S,
    words: &[Columns<u32>],
    x: Input,
    sums: &mut [f32],
    width: usize,
) {
    let (x, of_runs) = x.of::<F>();
    if let (Some(x), Some(of_runs)) = (x.first_chunk(), of_runs.first_chunk()) {
        simd.vectorize(Few::<F, R> { words, x, of_runs, sums, width, format: PhantomData });
    }
}

struct Few<'a, F, const R: usize> {
    words: &'a [Columns<u32>],
    x: &'a [[f32; TILE]; R],
    of_runs: &'a [Sums; R],
    sums: &'a mut [f32],
    width: usize,
    format: PhantomData<F>,
}

impl<F: Format, const R: usize> WithSimd for Few<'_, F, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        // As many sums as the registers can hold beside what is on the way to them.
        match const { vectors::<F, S>(R) } {
            4 => self.all::<S, 4>(simd),
            2 => self.all::<S, 2>(simd),
            _ => self.all::<S, 1>(simd),
        }
    }
}

/// How many vectors at a time some rows go over, as measured.
const fn vectors<F: Format, S: Simd>(rows: usize) -> usize {
    match (S::F32_LANES, rows) {
        (8, 1) => 4,
        (8, 2) if matches!(F::BITS, 5 | 8) => 4,
        (4 | 8 | 16, _) => 2,
        _ => 1,
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
        let nothing = simd.splat_f32s(0.0);
        let mut products = Products::<F, S, V, R> {
            simd,
            x: [&[]; R],
            runs: [&[]; R],
            ahead: std::ptr::null(),
            products: [[nothing; V]; R],
            sums: [[nothing; V]; R],
            format: PhantomData,
        };
        for r in 0..R {
            let row = S::as_simd_f32s(&self.sums[r * self.width..][..PANEL]).0;
            products.sums[r].copy_from_slice(&row[at..at + V]);
        }
        for (g, group) in self.words.chunks_exact(F::WORDS).enumerate() {
            for r in 0..R {
                products.x[r] = &self.x[r][g * F::GROUP..][..F::GROUP];
                let sums = F::GROUP / SHORTEST;
                products.runs[r] = &self.of_runs[r][g * sums..][..sums];
            }
            products.ahead = group.as_ptr().wrapping_byte_add(AHEAD_BYTES);
            products.begin(0);
            visit::<F, S, V>(simd, group, at, &mut products);
        }
        for r in 0..R {
            let row = S::as_mut_simd_f32s(&mut self.sums[r * self.width..][..PANEL]).0;
            row[at..at + V].copy_from_slice(&products.sums[r]);
        }
    }
}

/// Products of a group's codes with x, summed run by run.
struct Products<'a, F, S: Simd, const V: usize, const R: usize> {
    simd: S,
    /// The group's columns.
    x: [&'a [f32]; R],
    /// Their sums.
    runs: [&'a [f32]; R],
    /// What is wanted next.
    ahead: *const Columns<u32>,
    /// Of this run.
    products: [[S::f32s; V]; R],
    /// Of all before.
    sums: [[S::f32s; V]; R],
    format: PhantomData<F>,
}

impl<F: Format, S: Simd, const V: usize, const R: usize> Products<'_, F, S, V, R> {
    /// Begins a run.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn begin(&mut self, run: usize) {
        for r in 0..R {
            let first = match F::OFFSET {
                0.0 => 0.0,
                offset => -offset * of_run(self.runs[r], run, F::SHARED),
            };
            self.products[r] = [self.simd.splat_f32s(first); V];
        }
    }
}

impl<F: Format, S: Simd, const V: usize, const R: usize> Visit<S, V> for Products<'_, F, S, V, R> {
    /// Fetches what will be wanted, spread evenly: a processor fetches few lines at once.
    #[inline(always)]
    fn word(&mut self, word: usize) {
        prefetch(self.ahead.wrapping_add(word));
    }

    #[inline(always)]
    fn code(&mut self, column: usize, v: usize, code: S::f32s) {
        for r in 0..R {
            let x = self.simd.splat_f32s(self.x[r][column]);
            self.products[r][v] = self.simd.mul_add_e_f32s(code, x, self.products[r][v]);
        }
    }

    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn run(&mut self, run: usize, scale: [S::f32s; V], addend: [Option<S::f32s>; V]) {
        let simd = self.simd;
        for r in 0..R {
            let of_run = simd.splat_f32s(of_run(self.runs[r], run, F::SHARED));
            for v in 0..V {
                let sum = simd.mul_add_e_f32s(scale[v], self.products[r][v], self.sums[r][v]);
                self.sums[r][v] = match addend[v] {
                    Some(addend) => simd.mul_add_e_f32s(addend, of_run, sum),
                    None => sum,
                };
            }
        }
        if run + 1 < F::GROUP / F::SHARED {
            self.begin(run + 1);
        }
    }
}
