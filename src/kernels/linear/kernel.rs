//! The innermost matrix product: a few rows of x with one panel of the weight.
//!
//! Every element of a product is summed in the same order, whatever is computed beside it: fused
//! multiplications and additions, one after the other, over the columns of a tile; then the
//! tiles' sums, one after the other. Hence the same bits for any number of threads and for a row
//! alone or among others.

use super::stored::{Columns, PANEL, Stored};
use pulp::{Arch, Simd, WithSimd};
use std::sync::atomic::{Ordering, compiler_fence};

/// Columns that are summed before their sum is added to the rest: few enough for a tile of a
/// panel and of x to stay in the first two caches, many enough for that addition not to count.
pub const TILE: usize = 512;

/// Rows of x that are computed between two visits of a panel: their tiles stay in the second-level
/// cache.
pub const GROUP: usize = 96;

/// Tiles of x that are gone through panel by panel: as many as stay in a large cache, all that
/// there are if x is small, since a panel is read fastest from end to end.
const TILES_OF_X: usize = 1024;

/// How far ahead of its use a panel is fetched if every part of it is used only once.
const AHEAD_BYTES: usize = 4096;

/// Instructions to multiply with: those of one instruction set.
pub trait Kernel<W: Stored>: Copy {
    /// What x comes in.
    type X: Copy;

    /// Rows whose sums fit the registers, up to 12.
    const ROWS: usize;

    /// Passes over a panel, each for a part of its rows, where their sums do not fit at once.
    const PASSES: usize = 1;

    /// Multiplies, and adds the products to the sums.
    fn multiply<const R: usize>(self, sliver: Sliver<W, Self::X, R>);
}

/// `R` rows of a tile of x and a tile of a panel.
pub struct Sliver<'a, W: Stored, X, const R: usize> {
    pub x: &'a [[X; TILE]; R],
    /// The panel's columns, step by step.
    pub panel: &'a [Columns<W>],
    /// What to fetch of the weight on the way: from where, and how many bytes further with every step.
    pub ahead: (*const Columns<W>, usize),
    /// What to fetch of x on the way: from where, and how many bytes further with every column.
    pub ahead_of_x: (*const [X; TILE], usize),
    /// Where the sums begin, `[R, PANEL]` inside rows of some width.
    pub sums: &'a mut [f32],
    pub width: usize,
    /// Which of a kernel's passes over the panel to make, if not all.
    pub pass: Option<usize>,
}

/// Some panels of a weight, one behind the other, times rows of x.
pub struct PanelMatmul<'a, W: Stored, X> {
    /// The tiles of x: `[tiles, rows]`.
    pub x: &'a [[X; TILE]],
    /// How many rows x has.
    pub rows: usize,
    /// The panels' columns: `[panels, steps]`.
    pub panels: &'a [Columns<W>],
    /// How many steps of [`Stored::WIDTH`] columns a panel has.
    pub steps: usize,
    /// To which the products are added: `[rows, panels · PANEL]` inside rows of some width.
    pub sums: &'a mut [f32],
    /// Columns.
    pub width: usize,
}

impl<W: Stored> PanelMatmul<'_, W, f32> {
    /// Does the work with the widest vectors that the machine has.
    pub fn add(self) {
        Arch::new().dispatch(self);
    }
}

impl<W: Stored, X: Copy> PanelMatmul<'_, W, X> {
    /// Does the work with a kernel.
    pub fn add_with(self, kernel: impl Kernel<W, X = X>) {
        let Self { x, rows, panels, steps, sums, width } = self;
        let tiles = steps.div_ceil(TILE / W::WIDTH);
        let step = tiles_at_a_time(rows);
        for first in (0..tiles).step_by(step) {
            for start in (0..rows).step_by(GROUP) {
                let group = GROUP.min(rows - start);
                for (at, panel) in panels.chunks_exact(steps).enumerate() {
                    let sums = &mut sums[start * width + at * PANEL..];
                    let some = panel.chunks(TILE / W::WIDTH).enumerate().skip(first).take(step);
                    for (t, tile) in some {
                        // The first panel brings x into the second-level cache.
                        let next =
                            (at == 0).then(|| x.as_ptr().wrapping_add((t + 1) * rows + start));
                        let x = &x[t * rows + start..][..group];
                        multiply_tile(kernel, x, next, tile, sums, width);
                    }
                }
            }
        }
    }
}

/// Tiles of so many rows of x that are gone through panel by panel.
pub fn tiles_at_a_time(rows: usize) -> usize {
    (TILES_OF_X / rows.max(1)).max(1)
}

/// One tile of a panel times a group of rows; `next` is the group's next tile, if it is to be fetched.
pub fn multiply_tile<W: Stored, K: Kernel<W>>(
    kernel: K,
    x: &[[K::X; TILE]],
    next: Option<*const [K::X; TILE]>,
    panel: &[Columns<W>],
    sums: &mut [f32],
    width: usize,
) {
    if x.len() <= K::ROWS {
        return multiply_slivers(kernel, x, next, panel, sums, width, None);
    }
    // What a pass reads of the tile stays in the first-level cache from sliver to sliver.
    for pass in 0..K::PASSES {
        let next = next.filter(|_| pass == 0);
        multiply_slivers(kernel, x, next, panel, sums, width, Some(pass));
    }
}

/// One tile of a panel times a group of rows, in one pass or all, in slivers of as many rows as the
/// registers can hold.
fn multiply_slivers<W: Stored, K: Kernel<W>>(
    kernel: K,
    x: &[[K::X; TILE]],
    next: Option<*const [K::X; TILE]>,
    panel: &[Columns<W>],
    sums: &mut [f32],
    width: usize,
    pass: Option<usize>,
) {
    let slivers = x.len().div_ceil(K::ROWS);
    let mut start = 0;
    for sliver in 0..slivers {
        let rows = (x.len() - start).div_ceil(slivers - sliver);
        // A sliver fetches x for the next one.
        let bytes = rows * size_of::<[K::X; TILE]>() / (W::WIDTH * panel.len());
        let ahead_of_x = match next {
            Some(_) if sliver + 1 < slivers => (x[start + rows..].as_ptr(), bytes),
            Some(next) => (next, bytes),
            None => (x.as_ptr(), 0),
        };
        let x = &x[start..start + rows];
        let sums = &mut sums[start * width..];
        // What is behind this tile is wanted next. One sliver reads on as it goes; several share
        // the next tile out between them.
        let size = size_of::<Columns<W>>();
        let ahead = match slivers {
            1 => (panel.as_ptr().wrapping_byte_add(AHEAD_BYTES), size),
            _ => {
                let part = panel.len() * sliver / slivers;
                (panel.as_ptr().wrapping_add(TILE / W::WIDTH + part), size / slivers)
            }
        };
        macro_rules! multiply {
            ($($rows:literal)*) => {
                match x.len() {
                    $($rows if $rows <= K::ROWS => {
                        if let Some(x) = x.first_chunk::<$rows>() {
                            kernel.multiply(Sliver { x, panel, ahead, ahead_of_x, sums, width, pass });
                        }
                    })*
                    _ => unreachable!("more rows than a kernel takes"),
                }
            };
        }
        multiply!(1 2 3 4 5 6 7 8 9 10 11 12);
        start += rows;
    }
}

/// Fused multiplication and addition of f32, with vectors of any instruction set.
#[derive(Clone, Copy)]
pub struct MulAdd<S>(pub S);

impl<W: Stored> WithSimd for PanelMatmul<'_, W, f32> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.add_with(MulAdd(simd));
    }
}

impl<S: Simd, W: Stored> Kernel<W> for MulAdd<S> {
    type X = f32;

    const ROWS: usize = match S::F32_LANES {
        16 => 12,   // of 32 registers 24 hold sums
        8 | 4 => 6, // of 16 registers 12, of NEON's 32 again 24
        _ => 2,
    };

    const PASSES: usize = match S::F32_LANES {
        16 => 1,
        _ => 2,
    };

    /// A function of its own for each number of rows: inlined into one another, they lose the
    /// registers that their sums are in.
    #[inline(never)]
    fn multiply<const R: usize>(self, sliver: Sliver<W, f32, R>) {
        self.0.vectorize(sliver);
    }
}

impl<W: Stored, const R: usize> WithSimd for Sliver<'_, W, f32, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match S::F32_LANES {
            16 => self.vectors::<S, 2>(simd, 0),
            8 if R <= 3 && self.pass.is_none() => self.vectors::<S, 4>(simd, 0),
            8 => self.passes::<S, 2>(simd),
            4 => self.passes::<S, 4>(simd),
            _ => self.passes::<S, 8>(simd),
        }
    }
}

impl<W: Stored, const R: usize> Sliver<'_, W, f32, R> {
    /// The pass that is asked for, or all, with `V` vectors at a time.
    #[inline(always)]
    fn passes<S: Simd, const V: usize>(&mut self, simd: S) {
        let vectors = PANEL / S::F32_LANES;
        let some = match self.pass {
            Some(pass) => pass * vectors / 2..(pass + 1) * vectors / 2,
            None => 0..vectors,
        };
        for at in some.step_by(V) {
            self.vectors::<S, V>(simd, at);
        }
    }

    /// The products with the panel's `V` vectors from the `at`-th on.
    ///
    /// Its loops go by index: written with iterators they are not unrolled, and the sums lie in
    /// memory.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn vectors<S: Simd, const V: usize>(&mut self, simd: S, at: usize) {
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        let steps = self.panel.len().min(TILE / W::WIDTH);
        for (i, columns) in self.panel[..steps].iter().enumerate() {
            prefetch(self.ahead.0.wrapping_byte_add(i * self.ahead.1));
            for column in 0..W::WIDTH {
                let mut w = [simd.splat_f32s(0.0); V];
                for v in 0..V {
                    w[v] = W::load(simd, columns, at + v, column);
                }
                for r in 0..R {
                    let x = simd.splat_f32s(self.x[r][W::WIDTH * i + column]);
                    for v in 0..V {
                        sums[r][v] = simd.mul_add_e_f32s(w[v], x, sums[r][v]);
                    }
                    // Otherwise all of x is loaded first, and what it drives out of the registers
                    // costs more than half the speed.
                    compiler_fence(Ordering::SeqCst);
                }
                let at = (W::WIDTH * i + column) * self.ahead_of_x.1;
                prefetch(self.ahead_of_x.0.wrapping_byte_add(at).cast::<Line>());
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

/// A cache line.
pub type Line = [u8; 64];

/// Asks for memory that will be read soon. Any address will do: one that is not ours is ignored.
#[inline(always)]
pub fn prefetch<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for line in 0..size_of::<T>().div_ceil(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program can see and faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast::<i8>().wrapping_add(64 * line)) }
    }
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    let _ = at;
}
