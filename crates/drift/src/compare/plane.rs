//! The numbers of one point.

use crate::error::Result;
use candle_core::{DType, Tensor};
use gemma_mlp::internal::Numbers;
use std::ops::Range;

/// The numbers of one point on one text: a row for each position, read when they are asked for, since
/// the logits of a long text do not fit in memory.
#[derive(Debug, Clone)]
pub struct Plane {
    /// `[positions, …]`.
    shape: Vec<usize>,
    dtype: DType,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    Memory(Tensor),
    /// In a file, from its first row on.
    File(Numbers, usize),
}

impl Plane {
    /// A tensor `[positions, …]` of a floating-point dtype.
    pub fn new(tensor: Tensor) -> Self {
        Self {
            shape: tensor.dims().to_vec(),
            dtype: tensor.dtype(),
            source: Source::Memory(tensor),
        }
    }

    /// Numbers in a file, row-major, of a shape `[positions, …]`; `None` if they are no floats of 16 to 64
    /// bits, or more or fewer than the shape asks for.
    pub(crate) fn in_file(numbers: Numbers, shape: Vec<usize>) -> Option<Self> {
        let dtype = numbers.float()?;
        let count = shape.iter().try_fold(1, |n: usize, &dim| n.checked_mul(dim))?;
        (count == numbers.len() && !shape.is_empty()).then_some(Self {
            shape,
            dtype,
            source: Source::File(numbers, 0),
        })
    }

    /// Some of its positions, as a plane of its own.
    pub(super) fn part(&self, rows: Range<usize>) -> Result<Self> {
        let mut shape = self.shape.clone();
        if let Some(positions) = shape.first_mut() {
            *positions = rows.len();
        }
        let source = match &self.source {
            Source::Memory(tensor) => Source::Memory(tensor.narrow(0, rows.start, rows.len())?),
            Source::File(numbers, first) => Source::File(numbers.clone(), first + rows.start),
        };
        Ok(Self { shape, dtype: self.dtype, source })
    }

    /// Its shape, `[positions, …]`.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many positions it has.
    pub fn positions(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }

    /// How many numbers a position has.
    pub fn width(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// The dtype it is stored in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Some rows, `[rows, …]`, in the dtype they are stored in; out of a file they are read now, onto the
    /// CPU.
    ///
    /// # Errors
    /// Rows beyond the last position; a file that cannot be read or was written to since it was opened.
    pub fn rows(&self, rows: Range<usize>) -> Result<Tensor> {
        match &self.source {
            Source::Memory(tensor) => Ok(tensor.narrow(0, rows.start, rows.len())?),
            Source::File(numbers, first) => {
                let mut shape = self.shape.clone();
                shape[0] = rows.len();
                let width = self.width();
                let range = (first + rows.start) * width..(first + rows.end) * width;
                if rows.end > self.positions() {
                    let what = format!("rows {rows:?} of {} positions", self.positions());
                    return Err(gemma_mlp::Error::Input(what).into());
                }
                Ok(numbers.tensor(range, &shape)?)
            }
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// Those of [`Self::rows`].
    pub fn tensor(&self) -> Result<Tensor> {
        self.rows(0..self.positions())
    }
}

/// A few numbers of a point, as programs print them that show the ends of each row: enough to tell
/// where two models part, and not by how much.
#[derive(Debug, Clone, PartialEq)]
pub struct Glimpse {
    /// `[positions, …]`.
    pub shape: Vec<usize>,
    /// Numbers, by their place in the whole, row after row.
    pub values: Vec<(usize, f64)>,
    /// The sum of all numbers, if it is given.
    pub sum: Option<f64>,
    /// How far a printed number may be from what it was: half a unit of its last digit.
    pub precision: f64,
}
