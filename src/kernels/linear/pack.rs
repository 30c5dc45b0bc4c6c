//! Matrices into panels.

use super::matrix::Matrix;
use super::stored::{Columns, PANEL, Stored};
use crate::kernels::memory::on_large_pages;
use crate::kernels::operands::with_slice;
use candle_core::{Result, Tensor, WithDType};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Steps that are packed at a time: as many numbers of a row as make up a good part of a cache line.
/// Panels are padded to a multiple of them.
pub(super) const STEPS: usize = 8;

/// Bytes of a matrix that a thread packs at a time, in whole panels: where they are read from a file they are still in a
/// cache when they are packed.
const BYTES: usize = 1 << 20;

/// A few panels of a stream of matrices, and where they are to be.
struct Piece<'a, W: Stored> {
    matrices: &'a [Matrix],
    first: usize,
    /// `[panels, parts, groups, STEPS]`.
    place: &'a mut [MaybeUninit<[Columns<W>; STEPS]>],
}

/// The panels of streams one behind the other, and in each those of its matrices in turns:
/// `[streams, panels, parts, steps]`. All matrices have one shape, and `W` is their dtype.
pub(super) fn pack<W: Stored>(streams: &[Vec<Matrix>]) -> Result<Vec<Columns<W>>> {
    let (rows, columns) = (streams[0][0].rows(), streams[0][0].columns());
    let (panels, parts) = (rows.div_ceil(PANEL), streams[0].len());
    let groups = columns.div_ceil(W::WIDTH * STEPS);
    let len = streams.len() * panels * parts * groups;
    let at_a_time = (BYTES / (PANEL * columns * size_of::<W>()).max(1)).max(1);
    let mut packed = on_large_pages(len);
    let pieces: Vec<Piece<W>> = packed.spare_capacity_mut()[..len]
        .chunks_mut(panels * parts * groups)
        .zip(streams)
        .flat_map(|(stream, matrices)| {
            let places = stream.chunks_mut(at_a_time * parts * groups).enumerate();
            places.map(|(i, place)| Piece { matrices, first: i * at_a_time, place })
        })
        .collect();
    pieces.into_par_iter().try_for_each(|piece| piece.pack(groups))?;
    // SAFETY: there is room for them, and nothing failed: the pieces are all of it, and each of them was written from
    // its first group to its last (`Piece::pack` asserts that it has as many panels as there is room for).
    unsafe { packed.set_len(len) };
    Ok(packed.into_flattened())
}

impl<W: Stored> Piece<'_, W> {
    fn pack(self, groups: usize) -> Result<()> {
        let (rows, columns) = (self.matrices[0].rows(), self.matrices[0].columns());
        let parts = self.matrices.len();
        let panels = self.place.len() / (parts * groups);
        assert_eq!(self.place.len(), panels * parts * groups, "whole panels");
        let first = self.first * PANEL;
        let count = (panels * PANEL).min(rows - first);
        for (part, matrix) in self.matrices.iter().enumerate() {
            let blocks = matrix.narrow(first, count).read()?;
            with_rows(&blocks, &[], &mut |rows: &[&[W]]| {
                let rows: Vec<&[W]> = rows.iter().flat_map(|r| r.chunks_exact(columns)).collect();
                let places = self.place.chunks_exact_mut(groups).skip(part).step_by(parts);
                for (places, rows) in places.zip(rows.chunks(PANEL)) {
                    for (group, place) in places.iter_mut().enumerate() {
                        place.write(columns_of(rows, group));
                    }
                }
            })?;
        }
        Ok(())
    }
}

/// Some columns of up to 32 rows; of rows and columns that do not exist there are zeros.
fn columns_of<W: Stored>(rows: &[&[W]], group: usize) -> [Columns<W>; STEPS] {
    let width = W::WIDTH * STEPS;
    let mut columns = [Columns::ZEROS; STEPS];
    for (lane, row) in rows.iter().enumerate() {
        let mut numbers = [<W as WithDType>::from_f64(0.0); 2 * STEPS];
        let some = &row[group * width..row.len().min((group + 1) * width)];
        numbers[..some.len()].copy_from_slice(some);
        for (step, numbers) in columns.iter_mut().zip(numbers.chunks_exact(W::WIDTH)) {
            W::set(step, lane, numbers);
        }
    }
    columns
}

/// Calls `f` with the rows of all blocks, after those before them.
fn with_rows<W: WithDType>(
    blocks: &[Tensor],
    before: &[&[W]],
    f: &mut dyn FnMut(&[&[W]]),
) -> Result<()> {
    let [block, rest @ ..] = blocks else {
        f(before);
        return Ok(());
    };
    with_slice(block, |own: &[W]| with_rows(rest, &[before, &[own]].concat(), f))?
}
