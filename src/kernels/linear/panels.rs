//! Packed matrices in memory, and the products with them.

#[cfg(target_arch = "x86_64")]
use super::dot_bf16::DotBf16;
use super::kernel::{PanelMatmul, TILE};
use super::matrix::Matrix;
use super::pack::{STEPS, pack};
use super::quantised::{BlockMatmul, Blocks};
use super::rows::{Rows, Tiles};
use super::stored::{Columns, PANEL, Stored};
use super::strips::strips;
use crate::kernels::memory::{kept, with_scratch};
use crate::kernels::number::Float;
use crate::kernels::threads;
use candle_core::{DType, Device, Error, Result, Tensor, WithDType};
use half::{bf16, f16};
use std::ops::Range;
use std::sync::Arc;

/// Panels of one or of several matrices of one shape, `[panels, parts, steps]`.
#[derive(Debug)]
pub(crate) enum Data {
    F32(Vec<Columns<f32>>),
    BF16(Vec<Columns<bf16>>),
    F16(Vec<Columns<f16>>),
    /// Quantised weights, which are f32 when they are read.
    Blocks(Blocks),
}

/// Evaluates an expression with the columns of a packed matrix and their dtype, or one with its blocks.
macro_rules! with_columns {
    ($data:expr, $W:ident, $columns:ident => $call:expr, $blocks:ident => $other:expr) => {
        match $data {
            Data::F32($columns) => {
                type $W = f32;
                $call
            }
            Data::BF16($columns) => {
                type $W = bf16;
                $call
            }
            Data::F16($columns) => {
                type $W = f16;
                $call
            }
            Data::Blocks($blocks) => $other,
        }
    };
}

impl Data {
    /// Packs several streams of as many matrices each, all of one shape and dtype.
    ///
    /// # Errors
    /// Another dtype than f32, bf16 and f16; what is in a file and cannot be read.
    pub fn pack(streams: &[Vec<Matrix>]) -> Result<Self> {
        if let Some(blocks) = Blocks::pack(streams) {
            return blocks.map(Self::Blocks);
        }
        match streams[0][0].dtype() {
            DType::F32 => pack::<f32>(streams).map(Self::F32),
            DType::BF16 => pack::<bf16>(streams).map(Self::BF16),
            DType::F16 => pack::<f16>(streams).map(Self::F16),
            dtype => Err(Error::UnsupportedDTypeForOp(dtype, "pack")),
        }
    }
}

/// Which rows of which panels a weight is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct View {
    /// The first panel, of each part, that belongs to it.
    pub first: usize,
    pub parts: usize,
    pub out_features: usize,
    pub in_features: usize,
    pub dtype: DType,
}

/// A packed weight in memory, ready for products. Cloning shares it.
#[doc(hidden)]
#[derive(Debug, Clone)]
pub struct Panels {
    pub(super) data: Arc<Data>,
    pub(super) view: View,
}

impl Panels {
    /// Rows of each of its matrices.
    pub fn out_features(&self) -> usize {
        self.view.out_features
    }

    /// Columns.
    pub fn in_features(&self) -> usize {
        self.view.in_features
    }

    /// Some rows of one of its matrices as a tensor, `[rows, in]`, in the dtype it is stored in.
    pub(super) fn gather(&self, part: usize, rows: &[usize]) -> Result<Tensor> {
        /// Rows that a thread takes at a time.
        const ROWS: usize = 16;
        fn gather<W: WithDType>(
            rows: &[usize],
            width: usize,
            get: impl Fn(usize, &mut [W]) + Sync,
        ) -> Result<Tensor> {
            let mut gathered = vec![W::from_f64(0.0); rows.len() * width];
            let out = gathered.chunks_mut((ROWS * width).max(1)).zip(rows.chunks(ROWS));
            threads::for_each(rows.len() * width, out, |(out, rows)| {
                out.chunks_mut(width).zip(rows).for_each(|(out, &row)| get(row, out));
            });
            Tensor::from_vec(gathered, (rows.len(), width), &Device::Cpu)
        }
        let width = self.view.in_features;
        let panel = |row: usize| (self.view.first + row / PANEL) * self.view.parts + part;
        with_columns!(&*self.data, W, data => {
            let steps = self.steps::<W>();
            gather::<W>(rows, width, |row, out| {
                let columns = &data[panel(row) * steps..];
                for (out, columns) in out.chunks_mut(W::WIDTH).zip(columns) {
                    for (column, out) in out.iter_mut().enumerate() {
                        *out = <W as Stored>::get(columns, row % PANEL, column);
                    }
                }
            })
        }, blocks => {
            gather::<f32>(rows, width, |row, out| blocks.get(panel(row), row % PANEL, out))
        })
    }

    /// Steps in a panel.
    fn steps<W: Stored>(&self) -> usize {
        self.view.in_features.div_ceil(W::WIDTH * STEPS) * STEPS
    }

    /// Panels of each matrix that one thread takes at a time: enough pieces for all threads to end
    /// together, and few enough panels for some tiles of them to stay in the second-level cache,
    /// while rows of x are multiplied by one after the other. A power of two.
    pub(crate) fn panels_at_a_time(&self) -> usize {
        const PIECES: usize = 16;
        let fair = self.view.out_features.div_ceil(PANEL) / (PIECES * threads::likely());
        1 << fair.clamp(1, 4).ilog2()
    }

    /// Calls `f` with the products of x and some rows, which start at a multiple of 32:
    /// `[count, panels, parts, 32]`, in f32. The last panel may hold rows behind the last one,
    /// whose products are without meaning.
    #[doc(hidden)]
    pub fn sums<R>(&self, x: Rows, rows: Range<usize>, f: impl FnOnce(&mut [f32]) -> R) -> R {
        kept!(SUMS);
        let at = |row: usize| (self.view.first + row / PANEL) * self.view.parts;
        let panels = at(rows.start)..at(rows.end.next_multiple_of(PANEL));
        let (rows, width) = (x.count(), panels.len() * PANEL);
        with_scratch(&SUMS, rows * width, |sums: &mut [f32]| {
            sums.fill(0.0);
            self.add(x, panels, sums, width);
            f(sums)
        })
    }

    /// Adds the products of x and some panels to sums, `[count, width]`.
    fn add(&self, x: Rows, panels: Range<usize>, sums: &mut [f32], width: usize) {
        let rows = x.count();
        let tiles = match x.tiles {
            Tiles::F32(tiles) => tiles,
            Tiles::Codes(input) => input.tiles,
            Tiles::BF16(tiles) => return self.dots(tiles, panels, sums),
        };
        with_columns!(&*self.data, W, data => {
            let steps = self.steps::<W>();
            let panels = &data[panels.start * steps..panels.end * steps];
            PanelMatmul::<W, f32> { x: tiles, rows, panels, steps, sums, width }.add();
        }, blocks => x.with_codes(blocks, |x| {
            let Tiles::Codes(x) = x.tiles else { unreachable!("f32 becomes codes") };
            let columns = self.view.in_features;
            BlockMatmul { x, rows, blocks, panels, columns, sums, width }.add();
        }));
    }

    /// Calls `f` with rows of x ready for several calls of [`Self::sums`].
    pub(crate) fn with_ready<R>(&self, x: Rows, f: impl FnOnce(Rows) -> R) -> R {
        match &*self.data {
            Data::Blocks(blocks) => x.with_codes(blocks, f),
            _ => f(x),
        }
    }

    /// Whether x of a type is multiplied as bf16: where it is, the weights are, and the machine has
    /// the instruction.
    pub(crate) fn takes_bf16<T: WithDType>(&self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if (T::DTYPE, self.view.dtype) == (DType::BF16, DType::BF16) {
            return DotBf16::new().is_some();
        }
        false
    }

    /// Calls `f` with the rows of x, `[count, in]`, for products with this weight.
    #[doc(hidden)]
    pub fn with_rows<T: Float, R>(&self, x: &[T], f: impl FnOnce(Rows) -> R) -> R {
        match self.takes_bf16::<T>() {
            true => Rows::with::<T, bf16, R>(x, self.view.in_features, f),
            false => Rows::with::<T, f32, R>(x, self.view.in_features, f),
        }
    }

    /// The sums of bf16 with bf16.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    fn dots(&self, x: &[[bf16; TILE]], panels: Range<usize>, sums: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if let (Some(kernel), Data::BF16(data)) = (DotBf16::new(), &*self.data) {
            let rows = x.len() / self.view.in_features.div_ceil(TILE);
            let (steps, width) = (self.steps::<bf16>(), panels.len() * PANEL);
            let panels = &data[panels.start * steps..panels.end * steps];
            return PanelMatmul::<bf16, bf16> { x, rows, panels, steps, sums, width }
                .add_with(kernel);
        }
        unreachable!("`takes_bf16` said that x comes in f32");
    }

    /// What a product with some rows of x takes one thread, roughly: the longer of reading the weights
    /// at 25 GB/s and of 40 multiplications a nanosecond.
    #[doc(hidden)]
    pub fn nanoseconds(&self, count: usize) -> usize {
        let weights = self.view.out_features * self.view.in_features * self.view.parts;
        let bytes = match &*self.data {
            // At half that speed, since they are dequantised meanwhile.
            Data::Blocks(_) => 2 * weights,
            _ => weights * self.view.dtype.size_in_bytes(),
        };
        (bytes / 25).max(weights * count / 40)
    }

    /// Writes `x·weightᵀ + bias`, rounded once, for each matrix, into the rows that `row_of` says, of
    /// a part and a row of x: out is `[all of these, rows]`. A bias is `[parts, rows]`.
    pub(crate) fn matmul<T: Float>(
        &self,
        x: Rows,
        bias: Option<&[f32]>,
        out: &mut [T],
        row_of: impl Fn(usize, usize) -> usize + Sync,
    ) {
        let step = self.panels_at_a_time() * PANEL;
        if x.count() == 0 {
            return;
        }
        let strips = strips(out, self.view.out_features, step);
        self.with_ready(x, |x| {
            threads::for_each(self.nanoseconds(x.count()), strips, |mut strip| {
                let columns = strip.columns();
                let bias = |part: usize| {
                    bias.map(|bias| &bias[part * self.view.out_features + columns.start..])
                };
                self.sums(x, columns.clone(), |sums| {
                    // The panels of the parts take turns, unless there is only one part.
                    let run = if self.view.parts == 1 { columns.len() } else { PANEL };
                    let per_row = sums.len() / x.count();
                    for (row, sums) in sums.chunks_exact_mut(per_row).enumerate() {
                        for (i, sums) in sums.chunks_mut(run.next_multiple_of(PANEL)).enumerate() {
                            let (first, part) = (i / self.view.parts * PANEL, i % self.view.parts);
                            let sums = &mut sums[..run.min(columns.len() - first)];
                            if let Some(bias) = bias(part) {
                                sums.iter_mut().zip(&bias[first..]).for_each(|(sum, b)| *sum += b);
                            }
                            let out = strip.row(row_of(part, row));
                            T::from_f32s(sums, &mut out[first..][..sums.len()]);
                        }
                    }
                });
            })
        });
    }
}

/// Rows of x that are multiplied at a time, where every row takes some elements of scratch: as many as
/// take 64 MiB, and no more than 2048, but always enough for reading the weights not to count.
pub fn rows_at_a_time(elements: usize) -> usize {
    ((16 << 20) / elements.max(1)).clamp(256, 2048)
}
