//! Weights in the order in which the kernels read them, in memory or still in a file.

use super::matrix::Matrix;
use super::panels::{Data, Panels, View};
use super::stored::PANEL;
use super::streamed::Streamed;
use candle_core::{DType, Error, Result, Tensor};
use std::ops::Range;
use std::sync::Arc;
use std::thread;

/// A weight `[out, in]` that stays, packed for matrix products on the CPU: in the dtype it was stored
/// in, f32, bf16 or f16, 32 rows side by side, column after column. Cloning shares it.
///
/// It may be several matrices of one shape, whose panels alternate, so that what is multiplied by
/// one x is read in one stream. Of a model that is larger than memory it may be in its file, and is packed when a product
/// needs it.
#[derive(Debug, Clone)]
pub struct Packed {
    place: Place,
    view: View,
    /// Whether a backward pass may take it for a constant.
    frozen: bool,
}

/// Where the panels are.
#[derive(Debug, Clone)]
enum Place {
    Memory(Arc<Data>),
    /// In a file, from which they come with the others of their layer.
    Layer(Streamed, usize),
    /// In a file, from which those come that are asked for. It is one matrix.
    Table(Arc<Matrix>),
}

/// Bytes of tables that are in memory at a time, while as many others are read.
const PIECE: usize = if cfg!(test) { 4 << 10 } else { 32 << 20 };

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
        let matrix = |weight: &&Tensor| {
            weight.dims2()?;
            Matrix::of(weight)
        };
        Self::of(weights.iter().map(matrix).collect::<Result<_>>()?)
    }

    /// The same, of matrices.
    pub(crate) fn of(matrices: Vec<Matrix>) -> Result<Self> {
        Ok(Self::side_by_side(vec![matrices])?.swap_remove(0))
    }

    /// Packs several streams of as many matrices each, all of one shape, into one piece of memory: large pages need large
    /// pieces. Of a model that is read layer by layer each stream is read when it is needed.
    ///
    /// # Errors
    /// Those of [`Self::interleaved`].
    pub(crate) fn side_by_side(streams: Vec<Vec<Matrix>>) -> Result<Vec<Self>> {
        let parts = streams.first().map_or(0, Vec::len);
        let Some(first) = streams.first().and_then(|weights| weights.first()) else {
            candle_core::bail!("no weight to pack")
        };
        let (rows, columns, dtype) = (first.rows(), first.columns(), first.dtype());
        for weights in &streams {
            if weights.len() != parts {
                candle_core::bail!("{} weights beside {parts} to pack", weights.len())
            }
            let unlike = |m: &&Matrix| (m.rows(), m.columns(), m.dtype()) != (rows, columns, dtype);
            if let Some(other) = weights.iter().find(unlike) {
                candle_core::bail!(
                    "weights of {rows}x{columns} in {dtype:?} and {}x{} in {:?} to pack",
                    other.rows(),
                    other.columns(),
                    other.dtype()
                )
            }
        }
        let view = View { first: 0, parts, out_features: rows, in_features: columns, dtype };
        let of = |place, view| Self { place, view, frozen: false };
        if let Some(streamed) = Streamed::of_layer()
            && streams.iter().flatten().all(Matrix::is_deferred)
        {
            let several = streams.len() > 1;
            let item = |matrices| Place::Layer(streamed.clone(), streamed.push(matrices, several));
            return Ok(streams.into_iter().map(|matrices| of(item(matrices), view)).collect());
        }
        let data = Arc::new(Data::pack(&streams)?);
        let first = |i: usize| i * rows.div_ceil(PANEL);
        let stream = |i| of(Place::Memory(data.clone()), View { first: first(i), ..view });
        Ok((0..streams.len()).map(stream).collect())
    }

    /// A weight that stays in its file, of which rows are read as they are needed.
    pub(crate) fn table(weight: &Tensor) -> Result<Self> {
        let matrix = Matrix::of(weight)?;
        let view = View {
            first: 0,
            parts: 1,
            out_features: matrix.rows(),
            in_features: matrix.columns(),
            dtype: matrix.dtype(),
        };
        Ok(Self { place: Place::Table(Arc::new(matrix)), view, frozen: false })
    }

    /// It in memory, to be multiplied by.
    ///
    /// # Errors
    /// A file that cannot be read, or was written to since it was opened.
    #[doc(hidden)]
    pub fn panels(&self) -> Result<Panels> {
        let view = self.view;
        let (data, view) = match &self.place {
            Place::Memory(data) => (data.clone(), view),
            Place::Layer(streamed, item) => (streamed.data(*item)?, view),
            Place::Table(matrix) => {
                let rows = matrix.narrow(view.first * PANEL, view.out_features);
                (Arc::new(Data::pack(&[vec![rows]])?), View { first: 0, ..view })
            }
        };
        Ok(Panels { data, view })
    }

    /// Rows in memory.
    fn loaded(&self, start: usize, len: usize) -> Result<Self> {
        let Panels { data, view } = self.narrow(start, len)?.panels()?;
        Ok(Self { place: Place::Memory(data), view, frozen: self.frozen })
    }

    /// Whether it is a table in a file.
    pub(super) fn is_table(&self) -> bool {
        matches!(self.place, Place::Table(_))
    }

    /// Rows of each of its matrices: how many numbers come out for a row of x.
    pub fn out_features(&self) -> usize {
        self.view.out_features
    }

    /// Columns: how many numbers a row of x has.
    pub fn in_features(&self) -> usize {
        self.view.in_features
    }

    /// How many matrices it holds.
    pub fn parts(&self) -> usize {
        self.view.parts
    }

    /// What it is stored in.
    pub fn dtype(&self) -> DType {
        self.view.dtype
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

    /// Whether both are views of one memory, or of one file's matrix, and of one part of it.
    pub fn shares_storage(&self, other: &Self) -> bool {
        let one = match (&self.place, &other.place) {
            (Place::Memory(a), Place::Memory(b)) => Arc::ptr_eq(a, b),
            (Place::Layer(a, i), Place::Layer(b, j)) => a == b && i == j,
            (Place::Table(a), Place::Table(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        one && self.view == other.view
    }

    /// Some of its rows, without a copy.
    ///
    /// # Errors
    /// Rows that do not exist, or that do not start at a multiple of 32.
    pub fn narrow(&self, start: usize, len: usize) -> Result<Self> {
        if !start.is_multiple_of(PANEL) || start.saturating_add(len) > self.out_features() {
            candle_core::bail!(
                "{len} rows from row {start} of a packed weight of {}",
                self.out_features()
            )
        }
        let first = self.view.first + start / PANEL;
        Ok(Self { view: View { first, out_features: len, ..self.view }, ..self.clone() })
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
    /// candle's, if memory runs out; a file that cannot be read, or was written to since it was opened.
    pub fn unpacked(&self) -> Result<Vec<Tensor>> {
        let (panels, all) = (self.panels()?, (0..self.out_features()).collect::<Vec<_>>());
        (0..self.parts()).map(|part| panels.gather(part, &all)).collect()
    }

    /// Some rows of the first matrix as a tensor, `[ids, in]`, in the dtype it is stored in.
    ///
    /// # Errors
    /// A row that does not exist; a file that cannot be read, or was written to since it was opened.
    pub fn index_select(&self, ids: &[usize]) -> Result<Tensor> {
        if let Some(id) = ids.iter().find(|&&id| id >= self.out_features()) {
            candle_core::bail!("row {id} of {}", self.out_features())
        }
        let Place::Table(matrix) = &self.place else { return self.panels()?.gather(0, ids) };
        if ids.is_empty() {
            return Tensor::zeros((0, self.in_features()), self.dtype(), &candle_core::Device::Cpu);
        }
        let first = self.view.first * PANEL;
        let read = runs(ids).map(|run| matrix.narrow(first + run.start, run.len()).read());
        Tensor::cat(&read.collect::<Result<Vec<_>>>()?.concat(), 0)
    }
}

/// Calls `f` with all rows of weights that have as many each, in memory and in pieces: one, unless there is a table in a
/// file among them, of which the next piece is read while `f` has one. `f` gets the number of the first row too, which is a
/// multiple of `multiple`, itself one of 32.
///
/// # Errors
/// Weights of different numbers of rows; a file that cannot be read, or was written to since it was opened; those of `f`.
#[doc(hidden)]
pub fn in_pieces<E: From<Error> + Send>(
    weights: &[&Packed],
    multiple: usize,
    mut f: impl FnMut(usize, &[Packed]) -> std::result::Result<(), E>,
) -> std::result::Result<(), E> {
    let rows = weights.first().map_or(0, |weight| weight.out_features());
    if let Some(other) = weights.iter().find(|weight| weight.out_features() != rows) {
        return Err(Error::Msg(format!("{rows} and {} rows", other.out_features())).into());
    }
    let per_row = |weight: &&Packed| weight.in_features() * weight.dtype().size_in_bytes();
    let tables = weights.iter().copied().filter(|weight| weight.is_table());
    let step = match tables.map(|table| per_row(&table)).sum::<usize>() {
        0 => rows.max(1),
        per_row => (PIECE / per_row).max(1).next_multiple_of(multiple),
    };
    let load = |start: usize| {
        let load = |weight: &&Packed| weight.loaded(start, step.min(rows - start));
        weights.iter().map(load).collect::<Result<Vec<_>>>()
    };
    let mut next = None;
    for start in (0..rows).step_by(step) {
        let piece = match next.take() {
            Some(piece) => piece,
            None => load(start)?,
        };
        next = thread::scope(|scope| {
            let behind = Some(start + step).filter(|&behind| behind < rows);
            let reading = behind.map(|behind| scope.spawn(move || load(behind)));
            f(start, &piece)?;
            let read = reading.map(|reading| match reading.join() {
                Ok(read) => read,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            Ok::<_, E>(read.transpose()?)
        })?;
    }
    Ok(())
}

/// Ids as ranges of neighbours, in their order.
fn runs(ids: &[usize]) -> impl Iterator<Item = Range<usize>> {
    ids.chunk_by(|a, b| a + 1 == *b).filter_map(|run| Some(*run.first()?..*run.last()? + 1))
}
