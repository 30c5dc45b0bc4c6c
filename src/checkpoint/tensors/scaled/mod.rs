//! Weights of codes whose scales lie in tensors of their own, in the same file or another. They are dequantised when
//! they are read.

mod codes;
mod grid;
mod place;
mod scales;

use super::file::PIECE;
use crate::error::Result;
use crate::kernels::memory::on_large_pages;
pub use codes::Codes;
pub(in crate::checkpoint) use grid::Grid;
pub(in crate::checkpoint) use place::Place;
use rayon::prelude::*;
pub(in crate::checkpoint) use scales::{Scales, Zeros};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A weight of codes.
pub(in crate::checkpoint) struct Scaled {
    /// Where the codes are.
    place: Place,
    codes: Codes,
    /// Of the weight: matrices, of which those beyond the first lie below it.
    shape: Vec<usize>,
    /// Bytes from one row's codes to the next one's.
    stride: usize,
    scales: Scales,
}

impl Scaled {
    /// A weight of a shape with rows and columns, whose codes take these rows of bytes.
    pub(in crate::checkpoint) fn new(
        place: Place,
        codes: Codes,
        shape: Vec<usize>,
        scales: Scales,
    ) -> Self {
        let bytes = place.len() * place.dtype.bitsize() / 8;
        let stride = bytes / (shape.iter().product::<usize>() / shape[shape.len() - 1]);
        Self { place, codes, shape, stride, scales }
    }

    pub(in crate::checkpoint) fn codes(&self) -> Codes {
        self.codes
    }

    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How many numbers it has.
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    fn columns(&self) -> usize {
        self.shape[self.shape.len() - 1]
    }

    /// Some of its numbers, counted along its rows. Whole rows are read.
    ///
    /// # Errors
    /// Scales that are no numbers; a file that cannot be read, or was written to since it was opened.
    pub(super) fn read(&self, range: Range<usize>) -> Result<Vec<f32>> {
        if range.is_empty() {
            return Ok(vec![]);
        }
        let columns = self.columns();
        let rows = range.start / columns..range.end.div_ceil(columns);
        let len = rows.len() * columns;
        let mut all = on_large_pages(len);
        let at_a_time = self.rows_at_a_time() * columns;
        let places = all.spare_capacity_mut()[..len].par_chunks_mut(at_a_time);
        let loaded = self.scales.load(&rows)?;
        self.scales.check(&loaded)?;
        self.dequantise(&rows, &loaded, places, |numbers, places| {
            assert_eq!(numbers.len(), places.len(), "a piece for its places");
            for (place, &number) in places.iter_mut().zip(numbers) {
                place.write(number);
            }
        })?;
        // SAFETY: there is room for them, and nothing failed: each place was written.
        unsafe { all.set_len(len) };
        all.truncate(range.end - rows.start * columns);
        all.drain(..range.start - rows.start * columns);
        Ok(all)
    }

    /// How many of its numbers are NaN or infinite. Reads all of them.
    pub(super) fn count_nonfinite(&self) -> Result<usize> {
        let rows = 0..self.len() / self.columns();
        let loaded = self.scales.load(&rows)?;
        let nonfinite = AtomicUsize::new(0);
        let pieces = rayon::iter::repeat_n((), rows.len().div_ceil(self.rows_at_a_time()));
        self.dequantise(&rows, &loaded, pieces, |numbers, ()| {
            let here = numbers.iter().filter(|number| !number.is_finite()).count();
            nonfinite.fetch_add(here, Ordering::Relaxed);
        })?;
        Ok(nonfinite.into_inner())
    }

    /// Whether another one is the same, number by number. Reads both up to where they differ.
    pub(super) fn is_equal(&self, other: &Self) -> Result<bool> {
        if self.shape != other.shape {
            return Ok(false);
        }
        let (len, step) = (self.len(), self.columns() * self.rows_at_a_time() * 16);
        for start in (0..len).step_by(step) {
            let range = start..len.min(start + step);
            let (own, others) = (self.read(range.clone())?, other.read(range)?);
            if own.iter().zip(&others).any(|(a, b)| a.to_bits() != b.to_bits()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How many rows are read at a time.
    fn rows_at_a_time(&self) -> usize {
        (PIECE / self.stride).max(1)
    }

    /// Reads rows with all threads, some at a time: `work` gets their numbers, and the item that stands in their place.
    fn dequantise<I: Send>(
        &self,
        rows: &Range<usize>,
        loaded: &scales::Loaded,
        items: impl IndexedParallelIterator<Item = I>,
        work: impl Fn(&[f32], I) + Sync + Send,
    ) -> Result<()> {
        let (stride, columns, at_a_time) = (self.stride, self.columns(), self.rows_at_a_time());
        let at = self.place.at + (rows.start * stride) as u64;
        let (bytes, size) = (rows.len() * stride, at_a_time * stride);
        self.place.file.read(at, bytes, size, items.enumerate(), |bytes, (i, item)| {
            let mut numbers = vec![0.0; bytes.len() / stride * columns];
            let each = bytes.chunks_exact(stride).zip(numbers.chunks_exact_mut(columns));
            for (j, (codes, numbers)) in each.enumerate() {
                self.codes.decode(codes, numbers);
                loaded.apply(rows.start + i * at_a_time + j, numbers);
            }
            work(&numbers, item);
            Ok(())
        })
    }
}
