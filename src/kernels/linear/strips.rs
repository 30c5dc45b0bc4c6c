//! A matrix that several threads fill at once, each its own columns.

use std::marker::PhantomData;
use std::ops::Range;

/// Some columns of a matrix that lies row by row.
pub struct Strip<'a, T> {
    data: *mut T,
    rows: usize,
    width: usize,
    columns: Range<usize>,
    matrix: PhantomData<&'a mut [T]>,
}

// SAFETY: strips of one matrix have no element in common (`strips` makes them so), hence one is
// as good as a `&mut [T]` of its own elements, which may be sent if `T` may.
unsafe impl<T: Send> Send for Strip<'_, T> {}

impl<T> Strip<'_, T> {
    /// Which columns these are.
    pub fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// How many rows the matrix has.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Its part of a row.
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows);
        let (start, len) = (row * self.width + self.columns.start, self.columns.len());
        // SAFETY: row and columns lie inside the matrix, which is borrowed for as long as the
        // strip lives; no other strip has these elements, and this one lends them once at a time.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }
}

/// Splits a matrix `[rows, width]` into strips of `step` columns, the last perhaps narrower.
pub fn strips<T: Send>(
    matrix: &mut [T],
    width: usize,
    step: usize,
) -> impl ExactSizeIterator<Item = Strip<'_, T>> + Send {
    let rows = matrix.len().checked_div(width).unwrap_or(0);
    let data = Shared(matrix.as_mut_ptr());
    (0..width.div_ceil(step)).map(move |i| {
        let Shared(data) = { data };
        let columns = i * step..width.min((i + 1) * step);
        Strip { data, rows, width, columns, matrix: PhantomData }
    })
}

/// The matrix, for the threads that make the strips.
struct Shared<T>(*mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: only strips are made of it, each of them once.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::threads;

    #[test]
    fn strips_cover_the_matrix_once() {
        for (rows, width, step) in
            [(1, 1, 1), (3, 10, 4), (5, 8, 8), (2, 3, 5), (0, 4, 2), (4, 0, 2)]
        {
            let mut matrix = vec![0; rows * width];
            threads::for_each(usize::MAX, strips(&mut matrix, width, step), |mut strip| {
                for row in 0..strip.rows() {
                    for (at, x) in strip.columns().zip(strip.row(row)) {
                        *x += row * width + at + 1;
                    }
                }
            });
            assert_eq!(matrix, (1..=rows * width).collect::<Vec<_>>());
        }
    }
}
