//! The innermost product: a few rows of x with one panel of the weight.
//!
//! Every element of a product is summed in the same order, whatever is computed beside it: fused
//! multiplications and additions, one after the other, over the columns of a block; then the
//! blocks' sums, one after the other. Hence the same bits for any number of threads and for a row
//! alone or among others.

use super::stored::Stored;
use pulp::{Simd, WithSimd};
use std::sync::atomic::{Ordering, compiler_fence};

/// Rows of the weight, which are columns of the product, that are packed together.
pub const PANEL: usize = 32;

/// Columns that are summed before their sum is added to the rest: few enough for a block of a
/// panel and of x to stay in the first two caches, many enough for that addition not to count.
pub const BLOCK: usize = 256;

/// Rows of x that are computed between two visits of a panel: their blocks stay in the second-level
/// cache.
const GROUP: usize = 96;

/// Blocks of x that are gone through panel by panel: as many as stay in a large cache, all that
/// there are if x is small, since a panel is read fastest from end to end.
const BLOCKS_OF_X: usize = 4096;

/// How far ahead of its use a panel is fetched if every part of it is used only once.
const AHEAD_BYTES: usize = 4096;

/// Some panels of a weight, one behind the other, times rows of x.
pub struct Panels<'a, W: Stored> {
    /// The blocks of x: `[blocks, rows]`.
    pub x: &'a [[f32; BLOCK]],
    /// How many rows x has.
    pub rows: usize,
    /// The panels' columns, two by two: `[panels, columns / 2]`.
    pub panels: &'a [W::Columns],
    /// How many pairs of columns a panel has.
    pub pairs: usize,
    /// Receives the sums: `[rows, panels · PANEL]`.
    pub sums: &'a mut [f32],
}

impl<W: Stored> WithSimd for Panels<'_, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { x, rows, panels, pairs, sums } = self;
        sums.fill(0.0);
        let blocks = pairs.div_ceil(BLOCK / 2);
        let step = (BLOCKS_OF_X / rows.max(1)).max(1);
        let width = panels.len() / pairs * PANEL;
        for first in (0..blocks).step_by(step) {
            for (at, panel) in panels.chunks_exact(pairs).enumerate() {
                for start in (0..rows).step_by(GROUP) {
                    let group = GROUP.min(rows - start);
                    let sums = &mut sums[start * width + at * PANEL..];
                    let some = panel.chunks(BLOCK / 2).enumerate().skip(first).take(step);
                    for (b, block) in some {
                        let x = &x[b * rows + start..][..group];
                        block_times_group::<S, W>(simd, x, block, sums, width);
                    }
                }
            }
        }
    }
}

/// One block of a panel times a group of rows, in slivers of as many as the registers can hold.
#[inline(always)]
fn block_times_group<S: Simd, W: Stored>(
    simd: S,
    x: &[[f32; BLOCK]],
    panel: &[W::Columns],
    sums: &mut [f32],
    width: usize,
) {
    let slivers = x.len().div_ceil(most_rows::<S>());
    let mut start = 0;
    for sliver in 0..slivers {
        let rows = (x.len() - start).div_ceil(slivers - sliver);
        let x = &x[start..start + rows];
        let sums = &mut sums[start * width..];
        // What is behind this block is wanted next. One sliver reads on as it goes; several share
        // the next block out between them.
        let ahead = match slivers {
            1 => (panel.as_ptr().wrapping_byte_add(AHEAD_BYTES), size_of::<W::Columns>()),
            _ => (
                panel.as_ptr().wrapping_add(panel.len() + panel.len() * sliver / slivers),
                size_of::<W::Columns>() / slivers,
            ),
        };
        macro_rules! sliver {
            ($($rows:literal)*) => {
                match rows {
                    $($rows => {
                        let x = x.first_chunk().unwrap_or(&[[0.0; BLOCK]; $rows]);
                        run(simd, Sliver::<W, $rows> { x, panel, ahead, sums, width });
                    })*
                    _ => unreachable!("more rows than most_rows"),
                }
            };
        }
        sliver!(1 2 3 4 5 6 7 8 9 10 11 12);
        start += rows;
    }
}

/// Rows whose sums fit the registers beside what they are made of.
const fn most_rows<S: Simd>() -> usize {
    match S::F32_LANES {
        16 => 12,   // of 32 registers 24 hold sums
        8 | 4 => 6, // of 16 registers 12, of NEON's 32 again 24
        _ => 2,
    }
}

/// `R` rows of a block of x times a block of a panel.
struct Sliver<'a, W: Stored, const R: usize> {
    x: &'a [[f32; BLOCK]; R],
    panel: &'a [W::Columns],
    /// What to fetch on the way: from where, and how many bytes further with every pair of columns.
    ahead: (*const W::Columns, usize),
    sums: &'a mut [f32],
    width: usize,
}

/// A function of its own for each kernel: inlined into one another, they lose the registers that
/// their sums are in.
#[inline(never)]
fn run<S: Simd>(simd: S, sliver: impl WithSimd<Output = ()>) {
    simd.vectorize(sliver);
}

impl<W: Stored, const R: usize> WithSimd for Sliver<'_, W, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        if R > most_rows::<S>() {
            return;
        }
        match S::F32_LANES {
            16 => self.vectors::<S, 2>(simd, 0),
            8 if R <= 3 => self.vectors::<S, 4>(simd, 0),
            8 => (0..4).step_by(2).for_each(|at| self.vectors::<S, 2>(simd, at)),
            4 => (0..8).step_by(4).for_each(|at| self.vectors::<S, 4>(simd, at)),
            lanes => {
                (0..PANEL / lanes).step_by(8).for_each(|at| self.vectors::<S, 8>(simd, at));
            }
        }
    }
}

impl<W: Stored, const R: usize> Sliver<'_, W, R> {
    /// The same for the panel's `V` vectors from the `at`-th on.
    #[inline(always)]
    fn vectors<S: Simd, const V: usize>(&mut self, simd: S, at: usize) {
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        let pairs = self.panel.len().min(BLOCK / 2);
        for (i, columns) in self.panel[..pairs].iter().enumerate() {
            prefetch(self.ahead.0.wrapping_byte_add(i * self.ahead.1));
            for column in 0..2 {
                let mut w = [simd.splat_f32s(0.0); V];
                for v in 0..V {
                    w[v] = W::load(simd, columns, at + v, column == 1);
                }
                for r in 0..R {
                    let x = simd.splat_f32s(self.x[r][2 * i + column]);
                    for v in 0..V {
                        sums[r][v] = simd.mul_add_e_f32s(w[v], x, sums[r][v]);
                    }
                    // Otherwise all of x is loaded first, and what it drives out of the registers
                    // costs more than half the speed.
                    compiler_fence(Ordering::SeqCst);
                }
            }
        }
        for r in 0..R {
            let row = S::as_mut_simd_f32s(&mut self.sums[r * self.width..][..PANEL]).0;
            for v in 0..V {
                row[at + v] = simd.add_f32s(row[at + v], sums[r][v]);
            }
        }
    }
}

/// Asks for memory that will be read soon. Any address will do: one that is not ours is ignored.
#[inline(always)]
fn prefetch<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for line in 0..size_of::<T>().div_ceil(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program can see and faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast::<i8>().wrapping_add(64 * line)) }
    }
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    let _ = at;
}
