//! Matrices in the order in which the kernels read them.

#[cfg(target_arch = "x86_64")]
use super::dot_bf16::DotBf16;
use super::kernel::{PanelMatmul, TILE};
use super::rows::{Rows, Tiles};
use super::stored::{Columns, PANEL, Stored};
use super::strips::strips;
use crate::kernels::memory::{kept, on_large_pages, with_scratch};
use crate::kernels::number::Float;
use crate::kernels::operands::slice;
use crate::kernels::threads;
use candle_core::{DType, Device, Error, Result, Storage, Tensor, WithDType};
use half::{bf16, f16};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// A weight `[out, in]` that stays, packed for matrix products on the CPU: in the dtype it was stored
/// in, f32, bf16 or f16, 32 rows side by side, column after column. Cloning shares it.
///
/// It may be several matrices of one shape, whose panels alternate, so that what is multiplied by
/// one x is read in one stream.
#[derive(Debug, Clone)]
pub struct Packed {
    data: Arc<Data>,
    /// The first panel, of each part, that belongs to it.
    first: usize,
    parts: usize,
    out_features: usize,
    in_features: usize,
    /// Whether a backward pass may take it for a constant.
    frozen: bool,
}

#[derive(Debug)]
enum Data {
    F32(Vec<Columns<f32>>),
    BF16(Vec<Columns<bf16>>),
    F16(Vec<Columns<f16>>),
}

/// Evaluates an expression with the columns of a packed matrix and their dtype.
macro_rules! with_columns {
    ($data:expr, $W:ident, $columns:ident => $call:expr) => {
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
        }
    };
}

impl Packed {
    /// Packs a weight, `[out, in]`, with all threads.
    ///
    /// # Errors
    /// A weight that is no matrix or an empty one, that is not in the CPU's memory, or of another dtype
    /// than f32, bf16 and f16.
    pub fn new(weight: &Tensor) -> Result<Self> {
        Self::interleaved(&[weight])
    }

    /// Packs weights of one shape, `[out, in]`, into one stream.
    ///
    /// # Errors
    /// Those of [`Self::new`]; shapes or dtypes that differ; no weight at all.
    pub fn interleaved(weights: &[&Tensor]) -> Result<Self> {
        let weights = weights.iter().map(|&weight| weight.clone()).collect();
        Ok(Self::side_by_side(&[weights])?.swap_remove(0))
    }

    /// Packs several streams of as many weights each, all of one shape, `[out, in]`, into one piece of memory:
    /// large pages need large pieces.
    ///
    /// # Errors
    /// Those of [`Self::interleaved`].
    pub(crate) fn side_by_side(streams: &[Vec<Tensor>]) -> Result<Vec<Self>> {
        let parts = streams.first().map_or(0, Vec::len);
        let Some(first) = streams.first().and_then(|weights| weights.first()) else {
            candle_core::bail!("no weight to pack")
        };
        let (rows, columns) = first.dims2()?;
        if rows == 0 || columns == 0 {
            candle_core::bail!("a weight of shape {rows}x{columns} has nothing to pack")
        }
        for weights in streams {
            if weights.len() != parts {
                candle_core::bail!("{} weights beside {parts} to pack", weights.len())
            }
            for weight in weights {
                crate::kernels::operands::check_pair(first, weight, "pack")?;
            }
        }
        let data = match first.dtype() {
            DType::F32 => pack::<f32>(streams, rows, columns).map(Data::F32),
            DType::BF16 => pack::<bf16>(streams, rows, columns).map(Data::BF16),
            DType::F16 => pack::<f16>(streams, rows, columns).map(Data::F16),
            dtype => Err(Error::UnsupportedDTypeForOp(dtype, "pack")),
        }?;
        let data = Arc::new(data);
        let stream = |i: usize| Self {
            data: data.clone(),
            first: i * rows.div_ceil(PANEL),
            parts,
            out_features: rows,
            in_features: columns,
            frozen: false,
        };
        Ok((0..streams.len()).map(stream).collect())
    }

    /// Rows of each of its matrices: how many numbers come out for a row of x.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Columns: how many numbers a row of x has.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// How many matrices it holds.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// What it is stored in.
    pub fn dtype(&self) -> DType {
        match &*self.data {
            Data::F32(_) => DType::F32,
            Data::BF16(_) => DType::BF16,
            Data::F16(_) => DType::F16,
        }
    }

    /// The weight as a constant to a backward pass, which then goes through it to the input, and is an
    /// error otherwise. Nothing is copied.
    pub fn frozen(&self) -> Self {
        Self { frozen: true, ..self.clone() }
    }

    /// Whether a backward pass may take it for a constant.
    pub fn is_frozen(&self) -> bool {
        self.frozen
    }

    /// Whether both are views of one memory, and of one part of it.
    pub fn shares_storage(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.data, &other.data)
            && (self.first, self.out_features) == (other.first, other.out_features)
    }

    /// Some of its rows, without a copy.
    ///
    /// # Errors
    /// Rows that do not exist, or that do not start at a multiple of 32.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        if !start.is_multiple_of(PANEL) || start.saturating_add(len) > self.out_features {
            candle_core::bail!(
                "{len} rows from row {start} of a packed weight of {}",
                self.out_features
            )
        }
        Ok(Self { first: self.first + start / PANEL, out_features: len, ..self.clone() })
    }

    /// Its matrices in a dtype, unpacked, converted by candle and packed again; a copy of the handle if
    /// that is their dtype already. What is [frozen](Self::frozen) stays so.
    ///
    /// # Errors
    /// Another dtype than f32, bf16 and f16.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        let weights = self.unpacked()?.into_iter().map(|weight| weight.to_dtype(dtype));
        let weights = weights.collect::<Result<Vec<_>>>()?;
        let packed = Self::interleaved(&weights.iter().collect::<Vec<_>>())?;
        Ok(Self { frozen: self.frozen, ..packed })
    }

    /// The matrices as tensors `[out, in]`, in the dtype they are stored in.
    ///
    /// # Errors
    /// candle's, if memory runs out.
    pub fn unpacked(&self) -> Result<Vec<Tensor>> {
        let all: Vec<usize> = (0..self.out_features).collect();
        (0..self.parts).map(|part| self.gather(part, &all)).collect()
    }

    /// Some rows of the first matrix as a tensor, `[ids, in]`, in the dtype it is stored in.
    ///
    /// # Errors
    /// A row that does not exist.
    pub fn index_select(&self, ids: &[usize]) -> Result<Tensor> {
        if let Some(id) = ids.iter().find(|&&id| id >= self.out_features) {
            candle_core::bail!("row {id} of {}", self.out_features)
        }
        self.gather(0, ids)
    }

    fn gather(&self, part: usize, rows: &[usize]) -> Result<Tensor> {
        /// Rows that a thread takes at a time.
        const ROWS: usize = 16;
        let (steps, shape) = (self.steps(), (rows.len(), self.in_features));
        with_columns!(&*self.data, W, data => {
            let mut gathered = vec![<W as WithDType>::from_f64(0.0); rows.len() * self.in_features];
            let out = gathered.chunks_mut((ROWS * self.in_features).max(1)).zip(rows.chunks(ROWS));
            threads::for_each(rows.len() * self.in_features, out, |(out, rows)| {
                for (out, &row) in out.chunks_mut(self.in_features).zip(rows) {
                    let panel = (self.first + row / PANEL) * self.parts + part;
                    let columns = &data[panel * steps..];
                    for (out, columns) in out.chunks_mut(W::WIDTH).zip(columns) {
                        for (column, out) in out.iter_mut().enumerate() {
                            *out = <W as Stored>::get(columns, row % PANEL, column);
                        }
                    }
                }
            });
            Tensor::from_vec(gathered, shape, &Device::Cpu)
        })
    }

    /// Steps in a panel.
    fn steps(&self) -> usize {
        with_columns!(&*self.data, W, _data => self.in_features.div_ceil(W::WIDTH * STEPS) * STEPS)
    }

    /// Panels of each matrix that one thread takes at a time: enough pieces for all threads to end
    /// together, and few enough panels for some tiles of them to stay in the second-level cache,
    /// while rows of x are multiplied by one after the other. A power of two.
    pub(crate) fn panels_at_a_time(&self) -> usize {
        const PIECES: usize = 16;
        let fair = self.out_features.div_ceil(PANEL) / (PIECES * threads::likely());
        1 << fair.clamp(1, 4).ilog2()
    }

    /// Calls `f` with the products of x and some rows, which start at a multiple of 32:
    /// `[count, panels, parts, 32]`, in f32. The last panel may hold rows behind the last one,
    /// whose products are without meaning.
    #[doc(hidden)]
    pub fn sums<R>(&self, x: Rows, rows: Range<usize>, f: impl FnOnce(&mut [f32]) -> R) -> R {
        kept!(SUMS);
        let panels = rows.start / PANEL..rows.end.div_ceil(PANEL);
        let steps = self.steps();
        let range = (self.first + panels.start) * self.parts * steps
            ..(self.first + panels.end) * self.parts * steps;
        let len = x.count() * panels.len() * self.parts * PANEL;
        with_scratch(&SUMS, len, |sums: &mut [f32]| {
            sums.fill(0.0);
            let (rows, width, memory) = (x.count(), panels.len() * self.parts * PANEL, &mut *sums);
            match x.tiles {
                Tiles::F32(x) => with_columns!(&*self.data, W, data => {
                    let panels = &data[range];
                    PanelMatmul::<W, f32> { x, rows, panels, steps, sums: memory, width }.add();
                }),
                Tiles::BF16(x) => self.dots(x, range, memory),
            }
            f(sums)
        })
    }

    /// Whether x of a type is multiplied as bf16: where it is, the weights are, and the machine has
    /// the instruction.
    pub(crate) fn takes_bf16<T: WithDType>(&self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if let (DType::BF16, Data::BF16(_)) = (T::DTYPE, &*self.data) {
            return DotBf16::new().is_some();
        }
        false
    }

    /// Calls `f` with the rows of x, `[count, in]`, for products with this weight.
    #[doc(hidden)]
    pub fn with_rows<T: Float, R>(&self, x: &[T], f: impl FnOnce(Rows) -> R) -> R {
        match self.takes_bf16::<T>() {
            true => Rows::with::<T, bf16, R>(x, self.in_features, f),
            false => Rows::with::<T, f32, R>(x, self.in_features, f),
        }
    }

    /// The sums of bf16 with bf16.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    fn dots(&self, x: &[[bf16; TILE]], range: Range<usize>, sums: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if let (Some(kernel), Data::BF16(data)) = (DotBf16::new(), &*self.data) {
            let (rows, steps, panels) =
                (x.len() / self.in_features.div_ceil(TILE), self.steps(), &data[range]);
            let width = panels.len() / steps * PANEL;
            return PanelMatmul::<bf16, bf16> { x, rows, panels, steps, sums, width }
                .add_with(kernel);
        }
        unreachable!("`takes_bf16` said that x comes in f32");
    }

    /// What a product with some rows of x takes one thread, roughly: the longer of reading the weights
    /// at 25 GB/s and of 40 multiplications a nanosecond.
    #[doc(hidden)]
    pub fn nanoseconds(&self, count: usize) -> usize {
        let weights = self.out_features * self.in_features * self.parts;
        (weights * self.dtype().size_in_bytes() / 25).max(weights * count / 40)
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
        let strips = strips(out, self.out_features, step);
        threads::for_each(self.nanoseconds(x.count()), strips, |mut strip| {
            let columns = strip.columns();
            let bias =
                |part: usize| bias.map(|bias| &bias[part * self.out_features + columns.start..]);
            self.sums(x, columns.clone(), |sums| {
                // The panels of the parts take turns, unless there is only one part.
                let run = if self.parts == 1 { columns.len() } else { PANEL };
                let per_row = sums.len() / x.count();
                for (row, sums) in sums.chunks_exact_mut(per_row).enumerate() {
                    for (i, sums) in sums.chunks_mut(run.next_multiple_of(PANEL)).enumerate() {
                        let (first, part) = (i / self.parts * PANEL, i % self.parts);
                        let sums = &mut sums[..run.min(columns.len() - first)];
                        if let Some(bias) = bias(part) {
                            sums.iter_mut().zip(&bias[first..]).for_each(|(sum, b)| *sum += b);
                        }
                        let out = strip.row(row_of(part, row));
                        T::from_f32s(sums, &mut out[first..][..sums.len()]);
                    }
                }
            });
        });
    }
}

/// Rows of x that are multiplied at a time, where every row takes some elements of scratch: as many as
/// take 64 MiB, and no more than 2048, but always enough for reading the weights not to count.
pub fn rows_at_a_time(elements: usize) -> usize {
    ((16 << 20) / elements.max(1)).clamp(256, 2048)
}

/// Steps that are packed at a time: as many numbers of a row as make up a good part of a cache line.
/// Panels are padded to a multiple of them.
const STEPS: usize = 8;

/// The panels of streams one behind the other, and in each those of its matrices in turns:
/// `[streams, panels, parts, steps]`.
fn pack<W: Stored>(
    streams: &[Vec<Tensor>],
    rows: usize,
    columns: usize,
) -> Result<Vec<Columns<W>>> {
    let weights = streams.iter().flatten().map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
    let storages: Vec<_> = weights.iter().map(|weight| weight.storage_and_layout()).collect();
    let mut matrices = vec![];
    for (storage, layout) in &storages {
        match &**storage {
            Storage::Cpu(storage) => matrices.push(slice::<W>(storage, layout)?),
            _ => candle_core::bail!("weights are packed in the CPU's memory"),
        }
    }
    let width = W::WIDTH * STEPS;
    let groups = columns.div_ceil(width);
    let (panels, parts) = (rows.div_ceil(PANEL), matrices.len() / streams.len());
    let count = panels * matrices.len() * groups;
    let pack = |i: usize| {
        let (panel, column) = (i / groups, i % groups * width);
        let (panel, part) = (panel / parts, panel % parts);
        let (stream, panel) = (panel / panels, panel % panels);
        let matrix = matrices[stream * parts + part];
        let mut group = [Columns::ZEROS; STEPS];
        for lane in 0..PANEL.min(rows - panel * PANEL) {
            let row = &matrix[(panel * PANEL + lane) * columns..][..columns];
            let mut numbers = [<W as WithDType>::from_f64(0.0); 2 * STEPS];
            let len = width.min(columns - column);
            numbers[..len].copy_from_slice(&row[column..][..len]);
            for (step, numbers) in group.iter_mut().zip(numbers.chunks_exact(W::WIDTH)) {
                W::set(step, lane, numbers);
            }
        }
        group
    };
    let mut packed = on_large_pages(count);
    (0..count).into_par_iter().with_min_len(groups.max(1)).map(pack).collect_into_vec(&mut packed);
    Ok(packed.into_flattened())
}
