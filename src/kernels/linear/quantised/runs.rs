//! Many rows of x times a tile of codes, run by run.

use super::format::{Format, Visit, visit};
use super::input::{Input, SHORTEST, Sums, of_run};
use crate::kernels::linear::kernel::{TILE, multiply};
use crate::kernels::linear::stored::{Columns, PANEL};
use pulp::{Simd, WithSimd};
use std::marker::PhantomData;

/// Columns between two looks at where a run ends.
const STEPS: usize = 8;

/// A tile of a panel, its codes as numbers.
pub struct Runs<'a> {
    /// Codes times their [unit](Format::UNITS), column by column.
    codes: &'a mut [Columns<f32>],
    /// By what every run is multiplied, and what is added, if anything.
    scales: &'a mut [Columns<f32>],
    addends: &'a mut [Columns<f32>],
    /// Columns of the tile, and of a run.
    columns: usize,
    shared: usize,
    /// What is taken off a code.
    offset: f32,
    has_addends: bool,
}

impl<'a> Runs<'a> {
    /// Runs of a tile, at most.
    const MOST: usize = TILE / SHORTEST;
    /// What it takes.
    pub const COLUMNS: usize = TILE + 2 * Self::MOST;

    /// An empty one in [`Self::COLUMNS`] columns of memory.
    pub fn new(memory: &'a mut [Columns<f32>]) -> Self {
        let (codes, rest) = memory.split_at_mut(TILE);
        let (scales, addends) = rest.split_at_mut(Self::MOST);
        let (columns, shared, offset, has_addends) = (0, 1, 0.0, false);
        Self { codes, scales, addends, columns, shared, offset, has_addends }
    }

    /// Fills it with the groups of a tile.
    #[inline(never)]
    pub fn set<F: Format, S: Simd>(&mut self, simd: S, words: &[Columns<u32>]) {
        self.columns = words.len() / F::WORDS * F::GROUP;
        (self.shared, self.offset) = (F::SHARED, F::OFFSET);
        simd.vectorize(Set::<F> { runs: self, words, format: PhantomData });
    }
}

struct Set<'a, 'b, F> {
    runs: &'a mut Runs<'b>,
    words: &'a [Columns<u32>],
    format: PhantomData<F>,
}

impl<F: Format> WithSimd for Set<'_, '_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Whole columns one after the other, where they are few vectors.
        match const { S::F32_LANES } {
            16 => self.all::<S, 2>(simd),
            8 => self.all::<S, 4>(simd),
            _ => self.all::<S, 1>(simd),
        }
    }
}

impl<F: Format> Set<'_, '_, F> {
    /// `V` vectors at a time.
    #[inline(always)]
    fn all<S: Simd, const V: usize>(self, simd: S) {
        let Self { runs, words, .. } = self;
        for (g, group) in words.chunks_exact(F::WORDS).enumerate() {
            let of_group = F::GROUP / F::SHARED;
            for at in (0..PANEL / S::F32_LANES).step_by(V) {
                let mut vectors = Vectors::<F> {
                    codes: &mut runs.codes[g * F::GROUP..][..F::GROUP],
                    scales: &mut runs.scales[g * of_group..][..of_group],
                    addends: &mut runs.addends[g * of_group..][..of_group],
                    has_addends: false,
                    at,
                    format: PhantomData,
                };
                visit::<F, S, V>(simd, group, at, &mut vectors);
                runs.has_addends = vectors.has_addends;
            }
        }
    }
}

/// The vectors of a group from the `at`-th on.
struct Vectors<'a, F> {
    codes: &'a mut [Columns<f32>],
    scales: &'a mut [Columns<f32>],
    addends: &'a mut [Columns<f32>],
    has_addends: bool,
    at: usize,
    format: PhantomData<F>,
}

impl<F: Format, S: Simd, const V: usize> Visit<S, V> for Vectors<'_, F> {
    #[inline(always)]
    fn code(&mut self, column: usize, v: usize, code: S::f32s) {
        S::as_mut_simd_f32s(self.codes[column].numbers_mut()).0[self.at + v] = code;
    }

    #[inline(always)]
    fn run(&mut self, run: usize, scale: [S::f32s; V], addend: [Option<S::f32s>; V]) {
        let scales = S::as_mut_simd_f32s(self.scales[run].numbers_mut()).0;
        let addends = S::as_mut_simd_f32s(self.addends[run].numbers_mut()).0;
        for v in 0..V {
            scales[self.at + v] = scale[v];
            if let Some(addend) = addend[v] {
                addends[self.at + v] = addend;
                self.has_addends = true;
            }
        }
    }
}

/// Rows whose sums with a panel fit the registers, as the other kernels have them.
const fn most_rows<S: Simd>() -> usize {
    match S::F32_LANES {
        16 => 12,
        8 | 4 => 3,
        _ => 2,
    }
}

/// Adds the products of some rows of x to sums, `[rows, PANEL]` inside rows of some width.
#[inline(always)]
pub fn multiply_runs<F: Format, S: Simd>(
    simd: S,
    x: Input,
    runs: &Runs,
    sums: &mut [f32],
    width: usize,
) {
    let (x, of_runs) = x.of::<F>();
    let slivers = x.len().div_ceil(most_rows::<S>());
    let mut start = 0;
    for sliver in 0..slivers {
        let rows = (x.len() - start).div_ceil(slivers - sliver);
        let (x, of_runs, sums) = (&x[start..], &of_runs[start..], &mut sums[start * width..]);
        macro_rules! multiply {
            ($($rows:literal)*) => {
                match rows {
                    $($rows if const { $rows <= most_rows::<S>() } => {
                        if let (Some(x), Some(of_runs)) = (x.first_chunk(), of_runs.first_chunk()) {
                            Sliver::<$rows> { x, of_runs, runs, sums, width }.multiply(simd);
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

struct Sliver<'a, const R: usize> {
    x: &'a [[f32; TILE]; R],
    of_runs: &'a [Sums; R],
    runs: &'a Runs<'a>,
    sums: &'a mut [f32],
    width: usize,
}

impl<const R: usize> WithSimd for Sliver<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        match self.runs.shared {
            32 => self.all::<S, 4>(simd),
            16 => self.all::<S, 2>(simd),
            other => unreachable!("runs of {other}"),
        }
    }
}

impl<const R: usize> Sliver<'_, R> {
    /// A function of its own for each number of rows, so that they do not share registers.
    #[inline(never)]
    fn multiply<S: Simd>(self, simd: S) {
        simd.vectorize(self);
    }

    /// All of a panel, with runs of so many pieces.
    #[inline(always)]
    fn all<S: Simd, const PIECES: usize>(&mut self, simd: S) {
        match const { S::F32_LANES } {
            16 => self.vectors::<S, 2, PIECES>(simd, 0),
            8 => self.vectors::<S, 4, PIECES>(simd, 0),
            _ => (0..PANEL / S::F32_LANES)
                .step_by(8)
                .for_each(|at| self.vectors::<S, 8, PIECES>(simd, at)),
        }
    }

    /// The products with the panel's `V` vectors from the `at`-th on. Its loops go by index, as those of the other kernels do.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    fn vectors<S: Simd, const V: usize, const PIECES: usize>(&mut self, simd: S, at: usize) {
        // On the stack: what is behind a reference is read again after every pinned vector.
        let Runs { ref codes, ref scales, ref addends, offset, has_addends, .. } = *self.runs;
        let (codes, scales, addends) = (&**codes, &**scales, &**addends);
        let runs = codes[..self.runs.columns].as_chunks::<STEPS>().0.as_chunks::<PIECES>().0;
        for (run, pieces) in runs[..runs.len().min(TILE / STEPS / PIECES)].iter().enumerate() {
            let mut products = [[simd.splat_f32s(0.0); V]; R];
            if offset != 0.0 {
                for r in 0..R {
                    products[r] = [simd
                        .splat_f32s(-offset * of_run(&self.of_runs[r], run, PIECES * STEPS));
                        V];
                }
            }
            for (i, piece) in pieces.iter().enumerate() {
                let first = STEPS * (PIECES * run + i);
                macro_rules! steps {
                    ($($step:literal)*) => {
                        $(multiply::<f32, S, V, R>(
                            simd,
                            &piece[$step],
                            at,
                            self.x,
                            first + $step,
                            &mut products,
                        );)*
                    };
                }
                // A loop would not be unrolled.
                steps!(0 1 2 3 4 5 6 7);
            }
            let scale = &S::as_simd_f32s(scales[run].numbers()).0[at..][..V];
            let addend = &S::as_simd_f32s(addends[run].numbers()).0[at..][..V];
            for r in 0..R {
                let row = S::as_mut_simd_f32s(&mut self.sums[r * self.width..][..PANEL]).0;
                let row = &mut row[at..][..V];
                if has_addends {
                    let of_run = of_run(&self.of_runs[r], run, PIECES * STEPS);
                    let of_run = simd.splat_f32s(of_run);
                    for v in 0..V {
                        let sum = simd.mul_add_e_f32s(scale[v], products[r][v], row[v]);
                        row[v] = simd.mul_add_e_f32s(addend[v], of_run, sum);
                    }
                } else {
                    for v in 0..V {
                        row[v] = simd.mul_add_e_f32s(scale[v], products[r][v], row[v]);
                    }
                }
            }
        }
    }
}
