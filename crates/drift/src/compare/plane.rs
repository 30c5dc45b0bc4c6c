//! The numbers of one point.

use crate::error::Result;
use candle_core::{DType, Tensor};
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

    /// Some rows, `[rows, …]`, in the dtype they are stored in.
    ///
    /// # Errors
    /// A file that cannot be read or was written to since it was opened.
    pub fn rows(&self, rows: Range<usize>) -> Result<Tensor> {
        match &self.source {
            Source::Memory(tensor) => Ok(tensor.narrow(0, rows.start, rows.len())?),
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
