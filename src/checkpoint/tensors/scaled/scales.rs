//! What codes are multiplied by, and shifted by before.

use super::grid::Grid;
use super::place::Place;
use crate::checkpoint::tensors::elements::elements;
use crate::error::{Error, Result};
use half::{bf16, f16};
use safetensors::Dtype;
use std::ops::Range;

/// The scales of a weight, in a tensor of their own.
pub(in crate::checkpoint) struct Scales {
    /// What the tensor is called, for messages.
    pub(in crate::checkpoint) name: String,
    pub(in crate::checkpoint) place: Place,
    pub(in crate::checkpoint) grid: Grid,
    pub(in crate::checkpoint) zeros: Option<Zeros>,
    /// Whether products are rounded to the scales' own dtype, if that is a half one.
    pub(in crate::checkpoint) rounded: bool,
}

/// What is taken off integers before they are multiplied.
pub(in crate::checkpoint) enum Zeros {
    /// Bytes, one beside each scale.
    Bytes(Place),
    /// Integers of so many bits, one for each scale of a matrix whose rows each have their own, packed down the columns
    /// into words of 32 bits.
    Packed(Place, u8),
}

/// The scales of some rows, read.
pub(super) struct Loaded {
    grid: Grid,
    /// The first row of blocks that is there.
    first: usize,
    scales: Vec<f32>,
    zeros: Option<Vec<f32>>,
    rounding: Rounding,
}

#[derive(Clone, Copy)]
enum Rounding {
    None,
    Bf16,
    F16,
}

impl Scales {
    /// Whether they are of a dtype that is read, where they may be exponents or not.
    pub(in crate::checkpoint) fn are_read(dtype: Dtype, exponents: bool) -> bool {
        match dtype {
            Dtype::F32 | Dtype::BF16 | Dtype::F16 => true,
            Dtype::F8_E8M0 | Dtype::U8 => exponents,
            _ => false,
        }
    }

    /// Reads those of some rows, of which there must be one.
    ///
    /// # Errors
    /// A file that cannot be read, or was written to since it was opened.
    pub(super) fn load(&self, rows: &Range<usize>) -> Result<Loaded> {
        let (grid, width) = (self.grid, self.grid.width());
        let (first, last) = (grid.row(rows.start), grid.row(rows.end - 1));
        let range = first * width..(last + 1) * width;
        let zeros = self.zeros.as_ref().map(|zeros| zeros.load(rows, &range, width)).transpose()?;
        let rounding = match (self.rounded, self.place.dtype) {
            (true, Dtype::BF16) => Rounding::Bf16,
            (true, Dtype::F16) => Rounding::F16,
            _ => Rounding::None,
        };
        Ok(Loaded { grid, first, scales: floats(&self.place, range)?, zeros, rounding })
    }

    /// Refuses scales that are no numbers.
    pub(super) fn check(&self, loaded: &Loaded) -> Result<()> {
        match loaded.scales.iter().filter(|scale| !scale.is_finite()).count() {
            0 => Ok(()),
            count => Err(Error::Quantised {
                path: self.place.file.path().into(),
                tensor: self.name.clone(),
                reason: format!(
                    "{count} of its scales are NaN or infinite; the file is damaged: download or quantise it again"
                ),
            }),
        }
    }
}

impl Zeros {
    /// One beside each scale of a range, which is that of some rows.
    fn load(&self, rows: &Range<usize>, range: &Range<usize>, width: usize) -> Result<Vec<f32>> {
        match self {
            Self::Bytes(Place { file, at, .. }) => {
                let at = at + range.start as u64;
                elements(file, at, range.len(), |[byte]| f32::from(u8::cast_signed(byte)))
            }
            Self::Packed(Place { file, at, .. }, bits) => {
                let bits = usize::from(*bits);
                let (first, last) = (rows.start * bits / 32, (rows.end * bits - 1) / 32);
                let bytes = (last + 1 - first) * width * size_of::<u32>();
                let at = at + (first * width * size_of::<u32>()) as u64;
                let words = elements(file, at, bytes, u32::from_le_bytes)?;
                let lowest = f32::from(1u8 << (bits - 1));
                let zero = |row: usize, column: usize| {
                    let (word, shift) = (row * bits / 32 - first, row * bits % 32);
                    let next = words.get((word + 1) * width + column).copied().unwrap_or(0);
                    let both = u64::from(words[word * width + column]) | u64::from(next) << 32;
                    let code = (both >> shift) & ((1 << bits) - 1);
                    f32::from(code as u8) - lowest
                };
                Ok(rows
                    .clone()
                    .flat_map(|row| (0..width).map(move |i| (row, i)))
                    .map(|(r, i)| zero(r, i))
                    .collect())
            }
        }
    }
}

impl Loaded {
    /// Multiplies what the codes of a row stand for.
    pub(super) fn apply(&self, row: usize, numbers: &mut [f32]) {
        let width = self.grid.width();
        let start = (self.grid.row(row) - self.first) * width;
        let scales = &self.scales[start..start + width];
        let zeros = self.zeros.as_ref().map(|zeros| &zeros[start..start + width]);
        for (i, numbers) in numbers.chunks_mut(self.grid.columns()).enumerate() {
            let (scale, zero) = (scales[i], zeros.map_or(0.0, |zeros| zeros[i]));
            let each = numbers.iter_mut();
            match self.rounding {
                Rounding::None => each.for_each(|x| *x = (*x - zero) * scale),
                Rounding::Bf16 => {
                    each.for_each(|x| *x = bf16::from_f32((*x - zero) * scale).to_f32());
                }
                Rounding::F16 => {
                    each.for_each(|x| *x = f16::from_f32((*x - zero) * scale).to_f32())
                }
            }
        }
    }
}

/// Some scales.
fn floats(place: &Place, range: Range<usize>) -> Result<Vec<f32>> {
    let bits = place.dtype.bitsize() / 8;
    let (at, bytes) = (place.at + (range.start * bits) as u64, range.len() * bits);
    let file = &place.file;
    match place.dtype {
        Dtype::F32 => elements(file, at, bytes, f32::from_le_bytes),
        Dtype::BF16 => elements(file, at, bytes, |b| bf16::from_le_bytes(b).to_f32()),
        Dtype::F16 => elements(file, at, bytes, |b| f16::from_le_bytes(b).to_f32()),
        // Powers of two, by their exponents.
        Dtype::F8_E8M0 | Dtype::U8 => elements(file, at, bytes, |[exponent]| match exponent {
            0 => f32::from_bits(1 << 22),
            255 => f32::NAN,
            _ => f32::from_bits(u32::from(exponent) << 23),
        }),
        other => {
            Err(Error::Input(format!("{}: {other:?} is no dtype of scales", file.path().display())))
        }
    }
}
