//! The innermost matrix product: a few rows of x with one panel of the weight.
//!
//! Every element of a product is summed in the same order, whatever is computed beside it: fused
//! multiplications and additions, one after the other, over the columns of a tile; then the
//! tiles' sums, one after the other. Hence the same bits for any number of threads and for a row
//! alone or among others.

use super::ahead::{Ahead, Stream};
use super::pin::pin;
use super::stored::{Columns, PANEL, Stored};
use pulp::{Arch, Simd, WithSimd};

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

    /// Rows whose sums with a whole panel fit the registers, up to 12.
    const ROWS: usize;

    /// Rows whose sums with half a panel fit them, if many rows had better go over each half by itself.
    const ROWS_OF_HALF: Option<usize> = None;

    /// Steps along a panel between two looks at what to fetch ahead, 1 or 8.
    const STEPS: usize = 1;

    /// Multiplies, and adds the products to the sums.
    fn multiply<const R: usize>(self, sliver: Sliver<W, Self::X, R>);
}

/// Rows that a kernel takes at most.
const fn most_rows<W: Stored, K: Kernel<W>>() -> usize {
    match K::ROWS_OF_HALF {
        Some(of_half) if of_half > K::ROWS => of_half,
        _ => K::ROWS,
    }
}

/// `R` rows of a tile of x and a tile of a panel.
pub struct Sliver<'a, W: Stored, X, const R: usize> {
    pub x: &'a [[X; TILE]; R],
    /// The panel's columns, step by step.
    pub panel: &'a [Columns<W>],
    pub ahead: Ahead,
    /// Where the sums begin, `[R, PANEL]` inside rows of some width.
    pub sums: &'a mut [f32],
    pub width: usize,
    /// Which half of the panel, if not all.
    pub half: Option<usize>,
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
                    let (size, last) = (TILE / W::WIDTH, tiles.min(first + step) - 1);
                    for (t, tile) in panel.chunks(size).enumerate().take(last + 1).skip(first) {
                        // As far ahead behind a short tile as behind the others, so that nothing of what
                        // is read from end to end is left out.
                        let after = match t == last && step < tiles {
                            true => panel.as_ptr().wrapping_add(steps + first * size),
                            false => tile.as_ptr().wrapping_add(size),
                        };
                        // The first panel brings x into the second-level cache.
                        let x_after =
                            (at == 0).then(|| x.as_ptr().wrapping_add((t + 1) * rows + start));
                        let next = Next { weight: after, x: x_after };
                        let x = &x[t * rows + start..][..group];
                        multiply_tile(kernel, x, tile, next, sums, width);
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

/// What a tile's successor reads: its part of a panel, and perhaps rows of x that no cache has yet.
pub struct Next<W, X> {
    pub weight: *const Columns<W>,
    pub x: Option<*const [X; TILE]>,
}

/// One tile of a panel times a group of rows.
pub fn multiply_tile<W: Stored, K: Kernel<W>>(
    kernel: K,
    x: &[[K::X; TILE]],
    panel: &[Columns<W>],
    next: Next<W, K::X>,
    sums: &mut [f32],
    width: usize,
) {
    // Half of a panel stays in the first-level cache from sliver to sliver.
    if K::ROWS_OF_HALF.is_some() && x.len() >= 2 * K::ROWS {
        let again = Next { x: None, ..next };
        multiply_slivers(kernel, x, panel, next, sums, width, Some(0));
        multiply_slivers(kernel, x, panel, again, sums, width, Some(1));
    } else {
        multiply_slivers(kernel, x, panel, next, sums, width, None);
    }
}

/// One tile of a panel, or a half of it, times a group of rows, in slivers of as many rows as the
/// registers can hold.
fn multiply_slivers<W: Stored, K: Kernel<W>>(
    kernel: K,
    x: &[[K::X; TILE]],
    panel: &[Columns<W>],
    next: Next<W, K::X>,
    sums: &mut [f32],
    width: usize,
    half: Option<usize>,
) {
    let looks = panel.len().div_ceil(K::STEPS);
    let (most, before, passes) = match (half, K::ROWS_OF_HALF) {
        (Some(half), Some(most)) => (most, half, 2),
        _ => (K::ROWS, 0, 1),
    };
    let slivers = x.len().div_ceil(most);
    let (fewest, one_more) = (x.len() / slivers, x.len() % slivers);
    // What is behind this tile is wanted next. One sliver reads on as it goes; several share
    // the next tile out between them.
    let bytes = size_of_val(panel);
    let (mut weight, part) = match slivers * passes {
        1 => (panel.as_ptr().wrapping_byte_add(AHEAD_BYTES), bytes),
        all => (next.weight.wrapping_byte_add(bytes / passes * before), bytes / all),
    };
    let of_weight = part.div_ceil(looks);
    let of_row = size_of::<[K::X; TILE]>().div_ceil(looks);
    let mut start = 0;
    for sliver in 0..slivers {
        let rows = fewest + usize::from(sliver < one_more);
        // A sliver fetches x for the next one.
        let x_after = next.x.map(|next| match sliver + 1 < slivers {
            true => x[start + rows..].as_ptr(),
            false => next,
        });
        let x_after = x_after.map(|at| Stream::new(at, rows * of_row));
        let ahead = Ahead::new(Stream::new(weight, of_weight), x_after);
        weight = weight.wrapping_byte_add(part);
        let x = &x[start..start + rows];
        let sums = &mut sums[start * width..];
        macro_rules! multiply {
            ($($rows:literal)*) => {
                match x.len() {
                    // Known before code is made of it: other numbers of rows get none.
                    $($rows if const { $rows <= most_rows::<W, K>() } => {
                        if let Some(x) = x.first_chunk::<$rows>() {
                            kernel.multiply(Sliver { x, panel, ahead, sums, width, half });
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
        8 | 4 => 3, // of 16 registers 12, of NEON's 32 again 24
        _ => 2,
    };

    /// To widen half types takes instructions of its own, which more rows share. f32 takes fewest
    /// with three rows and four vectors: a load of w and a third of one of x for three products.
    const ROWS_OF_HALF: Option<usize> = match S::F32_LANES {
        8 | 4 if W::WIDTH > 1 => Some(6),
        _ => None,
    };

    /// Where instructions are what there is too few of, above all with two threads on a core, they do
    /// not go into looking ahead.
    const STEPS: usize = match S::F32_LANES {
        16 => 1,
        _ => 8,
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
        match const { S::F32_LANES } {
            16 => self.vectors::<S, 2, 1>(simd, 0),
            8 => match self.half {
                None if const { R <= 3 } => self.vectors::<S, 4, 8>(simd, 0),
                half => self.vectors::<S, 2, 8>(simd, 2 * half.unwrap_or(0)),
            },
            4 => match self.half {
                None if const { R <= 3 } => self.vectors::<S, 8, 8>(simd, 0),
                half => self.vectors::<S, 4, 8>(simd, 4 * half.unwrap_or(0)),
            },
            _ => (0..PANEL / S::F32_LANES)
                .step_by(8)
                .for_each(|at| self.vectors::<S, 8, 8>(simd, at)),
        }
    }
}

impl<W: Stored, const R: usize> Sliver<'_, W, f32, R> {
    /// The products with the panel's `V` vectors from the `at`-th on.
    ///
    /// Its loops go by index: written with iterators they are not unrolled, and the sums lie in
    /// memory.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn vectors<S: Simd, const V: usize, const STEPS: usize>(&mut self, simd: S, at: usize) {
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        let (runs, rest) = self.panel.as_chunks::<STEPS>();
        // By a number, which bounds both: a look at each would take instructions of its own.
        let count = runs.len().min(TILE / W::WIDTH / STEPS);
        for i in 0..count {
            let run = &runs[i];
            match W::WIDTH {
                1 => self.ahead.fetch::<STEPS, 1>(),
                _ => self.ahead.fetch::<STEPS, 2>(),
            }
            macro_rules! steps {
                ($($step:literal)*) => {
                    $(if $step < STEPS {
                        let first = W::WIDTH * (STEPS * i + $step);
                        multiply::<W, S, V, R>(simd, &run[$step], at, self.x, first, &mut sums);
                    })*
                };
            }
            // A loop would not be unrolled.
            steps!(0 1 2 3 4 5 6 7);
        }
        for (i, columns) in rest.iter().enumerate() {
            let first = W::WIDTH * (STEPS * count + i);
            multiply::<W, S, V, R>(simd, columns, at, self.x, first, &mut sums);
        }
        for r in 0..R {
            let row = S::as_mut_simd_f32s(&mut self.sums[r * self.width..][..PANEL]).0;
            for v in 0..V {
                row[at + v] = simd.add_f32s(row[at + v], sums[r][v]);
            }
        }
    }
}

/// One step along a panel: the products of its columns' `V` vectors from the `at`-th on with x from a column on.
///
/// What is pinned is computed before more is loaded. Otherwise all of x is loaded first, and what it drives out of
/// the registers costs more than half the speed.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
pub fn multiply<W: Stored, S: Simd, const V: usize, const R: usize>(
    simd: S,
    columns: &Columns<W>,
    at: usize,
    x: &[[f32; TILE]; R],
    first: usize,
    sums: &mut [[S::f32s; V]; R],
) {
    for column in 0..W::WIDTH {
        let number = |r: usize| simd.splat_f32s(x[r][first + column]);
        if R <= V {
            // Fewest registers: those of x and one of w.
            let mut x = [simd.splat_f32s(0.0); R];
            for r in 0..R {
                x[r] = number(r);
            }
            for v in 0..V {
                let w = W::load(simd, columns, at + v, column);
                for r in 0..R {
                    sums[r][v] = pin(simd, simd.mul_add_e_f32s(w, x[r], sums[r][v]));
                }
            }
        } else {
            let mut w = [simd.splat_f32s(0.0); V];
            for v in 0..V {
                w[v] = W::load(simd, columns, at + v, column);
            }
            for r in 0..R {
                let x = number(r);
                for v in 0..V {
                    sums[r][v] = pin(simd, simd.mul_add_e_f32s(w[v], x, sums[r][v]));
                }
            }
        }
    }
}
