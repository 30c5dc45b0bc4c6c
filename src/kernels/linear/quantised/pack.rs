//! Blocks into panels, and rows out of them.

use super::format::{Format, Units, Visit, put_codes, visit};
use super::formats::with_format;
use crate::kernels::linear::matrix::Matrix;
use crate::kernels::linear::stored::{Columns, PANEL};
use crate::kernels::memory::on_large_pages;
use candle_core::Result;
use candle_core::quantized::GgmlDType;
use pulp::Scalar;
use rayon::prelude::*;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Panels of quantised weights, each of a type of its own.
#[derive(Debug)]
pub struct Blocks {
    words: Vec<Columns<u32>>,
    panels: Vec<Panel>,
    /// In which units their codes come.
    units: Vec<Units>,
}

/// Where a panel is, and of what type.
#[derive(Debug, Clone, Copy)]
pub struct Panel {
    pub kind: GgmlDType,
    /// Its first word.
    start: usize,
}

impl Blocks {
    /// Packs several streams of as many matrices each, all of one shape, in the order of other panels:
    /// `[streams, panels, parts]`. `None` unless all of them are quantised, in types that are kept, and every 32 rows in one.
    ///
    /// # Errors
    /// What is in a file and cannot be read.
    pub fn pack(streams: &[Vec<Matrix>]) -> Option<Result<Self>> {
        let (rows, columns) = (streams[0][0].rows(), streams[0][0].columns());
        let mut pieces = vec![];
        for stream in streams {
            let kinds: Vec<_> = stream.iter().map(Matrix::blocks).collect::<Option<_>>()?;
            for panel in 0..rows.div_ceil(PANEL) {
                for (matrix, kinds) in stream.iter().zip(&kinds) {
                    let (kind, first) = (kinds[panel], panel * PANEL);
                    let words = words(kind, columns)?;
                    pieces.push(Piece { matrix, kind, first, words });
                }
            }
        }
        Some(Self::of(&pieces))
    }

    fn of(pieces: &[Piece]) -> Result<Self> {
        let len = pieces.iter().map(|piece| piece.words).sum();
        let mut words = on_large_pages(len);
        let mut rest = &mut words.spare_capacity_mut()[..len];
        let (mut panels, mut places) = (vec![], vec![]);
        let mut start = 0;
        for piece in pieces {
            let (place, behind) = std::mem::take(&mut rest).split_at_mut(piece.words);
            panels.push(Panel { kind: piece.kind, start });
            places.push(place);
            (start, rest) = (start + piece.words, behind);
        }
        pieces.par_iter().zip(places).try_for_each(|(piece, place)| piece.pack(place))?;
        // SAFETY: there is room for them, and nothing failed: the places are all of it, and `put_panel` writes each of its
        // place's words.
        unsafe { words.set_len(len) };
        let mut units = vec![];
        for panel in &panels {
            let of_panel =
                with_format!(panel.kind, F => F::UNITS, unreachable!("other kinds have no panels"));
            if !units.contains(&of_panel) {
                units.push(of_panel);
            }
        }
        Ok(Self { words, panels, units })
    }

    /// What x is divided by for some of the panels.
    pub fn units(&self) -> &[Units] {
        &self.units
    }

    /// Some panels, one behind the other.
    pub fn panels(&self, range: std::ops::Range<usize>) -> &[Panel] {
        &self.panels[range]
    }

    /// The words of a panel and of what is behind it.
    pub fn from(&self, panel: Panel) -> &[Columns<u32>] {
        &self.words[panel.start..]
    }

    /// One row of a panel, dequantised.
    pub fn get(&self, panel: usize, row_of_panel: usize, out: &mut [f32]) {
        let panel = self.panels[panel];
        let words = self.from(panel);
        with_format!(panel.kind, F => {
            for (out, group) in out.chunks_mut(F::GROUP).zip(words.chunks_exact(F::WORDS)) {
                let mut row = Row::<F> { out, format: PhantomData };
                visit::<F, Scalar, 1>(Scalar, group, row_of_panel, &mut row);
            }
        }, unreachable!("other kinds have no panels"));
    }
}

/// A row of a group, dequantised.
struct Row<'a, F> {
    out: &'a mut [f32],
    format: PhantomData<F>,
}

impl<F: Format> Visit<Scalar, 1> for Row<'_, F> {
    fn code(&mut self, column: usize, _: usize, code: f32) {
        // The last group may have columns that the matrix has not.
        if let Some(out) = self.out.get_mut(column) {
            *out = code / F::UNITS[column % F::UNITS.len()] - F::OFFSET;
        }
    }

    fn run(&mut self, run: usize, [scale]: [f32; 1], [addend]: [Option<f32>; 1]) {
        for out in self.out.iter_mut().skip(run * F::SHARED).take(F::SHARED) {
            // As fused as not: what is multiplied is exact.
            *out *= scale;
            if let Some(addend) = addend {
                *out += addend;
            }
        }
    }
}

/// Rows that become a panel.
struct Piece<'a> {
    matrix: &'a Matrix,
    kind: GgmlDType,
    /// The first row.
    first: usize,
    /// Words of the panel.
    words: usize,
}

impl Piece<'_> {
    fn pack(&self, place: &mut [MaybeUninit<Columns<u32>>]) -> Result<()> {
        let Self { matrix, kind, first, .. } = *self;
        let rows = matrix.narrow(first, PANEL.min(matrix.rows() - first)).read_blocks()?;
        with_format!(
            kind,
            F => put_panel::<F>(&rows, matrix.columns(), place),
            unreachable!("other kinds have no panels")
        )
    }
}

/// Words of a panel; `None` of a type that is not kept, or columns of no whole blocks.
fn words(kind: GgmlDType, columns: usize) -> Option<usize> {
    with_format!(
        kind,
        F => columns.is_multiple_of(F::BLOCK).then(|| columns.div_ceil(F::GROUP) * F::WORDS),
        None
    )
}

/// Writes all words of a panel. Rows that do not exist are zeros.
fn put_panel<F: Format>(
    rows: &[u8],
    columns: usize,
    place: &mut [MaybeUninit<Columns<u32>>],
) -> Result<()> {
    let (size, per_row) = (F::KIND.type_size(), columns / F::BLOCK);
    if !rows.len().is_multiple_of(per_row * size) || rows.len() > PANEL * per_row * size {
        candle_core::bail!("{} bytes for a panel of {columns} columns in {:?}", rows.len(), F::KIND)
    }
    let rows: Vec<&[u8]> = rows.chunks_exact(per_row * size).collect();
    let mut words = vec![0u32; F::WORDS];
    for (group, places) in place.chunks_exact_mut(F::WORDS).enumerate() {
        let mut all = vec![Columns::ZEROS; F::WORDS];
        for (lane, row) in rows.iter().enumerate() {
            words.fill(0);
            let mut codes = [0u8; 256];
            let blocks = row.chunks_exact(size).skip(group * F::BLOCKS).take(F::BLOCKS);
            for ((at, block), codes) in blocks.enumerate().zip(codes.chunks_exact_mut(F::BLOCK)) {
                F::split(at, block, &mut words[..F::SCALES], codes);
            }
            put_codes::<F>(&codes[..F::GROUP], &mut words[F::SCALES..]);
            for (i, (columns, &word)) in all.iter_mut().zip(&words).enumerate() {
                columns.put(lane, word, F::order(i));
            }
        }
        for (place, columns) in places.iter_mut().zip(all) {
            place.write(columns);
        }
    }
    Ok(())
}
