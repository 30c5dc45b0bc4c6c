//! Numbers that lie one behind the other in a file, little-endian.

use super::file::{File, PIECE};
use crate::error::{Error, Result};
use crate::kernels::memory::on_large_pages;
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Numbers of one dtype in a file, which are read where and when they are asked for. Cloning shares the
/// file.
#[derive(Clone)]
pub struct Numbers {
    file: Arc<File>,
    /// Where they begin, in bytes.
    at: u64,
    /// How many there are.
    len: usize,
    dtype: Dtype,
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, at, len, dtype } = self;
        write!(f, "{len} of {dtype:?} from byte {at} of {}", file.path().display())
    }
}

impl Numbers {
    pub(super) fn new(file: &Arc<File>, at: u64, bytes: usize, dtype: Dtype) -> Self {
        let len = (bytes as u64 * 8 / dtype.bitsize() as u64) as usize;
        Self { file: file.clone(), at, len, dtype }
    }

    /// So many numbers from a byte on; `None` if the file ends before.
    pub fn of(file: &Arc<File>, at: u64, len: usize, dtype: Dtype) -> Option<Self> {
        let bytes = len.checked_mul(dtype.bitsize())? / 8;
        let end = at.checked_add(bytes as u64)?;
        (end <= file.len()).then(|| Self::new(file, at, bytes, dtype))
    }

    /// How many there are.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// What they are stored in.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// That as candle's, if [`Self::tensor`] reads them.
    pub fn float(&self) -> Option<DType> {
        match self.dtype {
            Dtype::F64 => Some(DType::F64),
            Dtype::F32 => Some(DType::F32),
            Dtype::BF16 => Some(DType::BF16),
            Dtype::F16 => Some(DType::F16),
            _ => None,
        }
    }

    /// Some of them, as they are stored, as a tensor on the CPU.
    ///
    /// # Errors
    /// Numbers that are no floats of 16 to 64 bits; a shape of more or fewer; a range beyond the end; a
    /// file that cannot be read, or was written to since it was opened.
    pub fn tensor(&self, range: Range<usize>, shape: &[usize]) -> Result<Tensor> {
        let cpu = &Device::Cpu;
        let tensor = match self.dtype {
            Dtype::F64 => Tensor::from_vec(self.read(range, f64::from_le_bytes)?, shape, cpu),
            Dtype::F32 => Tensor::from_vec(self.read(range, f32::from_le_bytes)?, shape, cpu),
            Dtype::BF16 => Tensor::from_vec(self.read(range, bf16::from_le_bytes)?, shape, cpu),
            Dtype::F16 => Tensor::from_vec(self.read(range, f16::from_le_bytes)?, shape, cpu),
            other => {
                return Err(self.input(format!("{other:?} is no dtype of floats that are read")));
            }
        };
        Ok(tensor?)
    }

    /// Some of them as token ids or positions: `None` for a number that is not whole, is negative or takes
    /// more than 32 bits.
    ///
    /// # Errors
    /// Numbers that are neither integers of 8 to 64 bits nor floats of 16 to 64; as [`Self::tensor`].
    pub fn ids(&self, range: Range<usize>) -> Result<Vec<Option<u32>>> {
        let whole =
            |x: f64| (x.fract() == 0.0 && x >= 0.0 && x <= f64::from(u32::MAX)).then_some(x as u32);
        match self.dtype {
            Dtype::U8 => self.read(range, |b: [u8; 1]| Some(b[0].into())),
            Dtype::I8 => self.read(range, |b| i8::from_le_bytes(b).try_into().ok()),
            Dtype::U16 => self.read(range, |b| Some(u16::from_le_bytes(b).into())),
            Dtype::I16 => self.read(range, |b| i16::from_le_bytes(b).try_into().ok()),
            Dtype::U32 => self.read(range, |b| Some(u32::from_le_bytes(b))),
            Dtype::I32 => self.read(range, |b| i32::from_le_bytes(b).try_into().ok()),
            Dtype::U64 => self.read(range, |b| u64::from_le_bytes(b).try_into().ok()),
            Dtype::I64 => self.read(range, |b| i64::from_le_bytes(b).try_into().ok()),
            Dtype::F16 => self.read(range, |b| whole(f16::from_le_bytes(b).to_f64())),
            Dtype::BF16 => self.read(range, |b| whole(bf16::from_le_bytes(b).to_f64())),
            Dtype::F32 => self.read(range, |b| whole(f32::from_le_bytes(b).into())),
            Dtype::F64 => self.read(range, |b| whole(f64::from_le_bytes(b))),
            other => Err(self.input(format!("{other:?} is no dtype of token ids or positions"))),
        }
    }

    /// The numbers of a range, of `N` bytes each.
    fn read<const N: usize, T: Copy + Send>(
        &self,
        range: Range<usize>,
        element: impl Fn([u8; N]) -> T + Sync + Send,
    ) -> Result<Vec<T>> {
        if range.start > range.end || range.end > self.len {
            return Err(self.input(format!("it has no numbers {range:?}, but {}", self.len)));
        }
        let at = self.at + (range.start * N) as u64;
        elements(&self.file, at, range.len() * N, element)
    }

    fn input(&self, what: String) -> Error {
        Error::Input(format!("{}: {what}", self.file.path().display()))
    }
}

/// The elements that lie in so many bytes from a place on, each made of its `N` bytes by a function: read
/// and converted by all threads, straight into their place.
pub(super) fn elements<const N: usize, T: Copy + Send>(
    file: &File,
    at: u64,
    bytes: usize,
    element: impl Fn([u8; N]) -> T + Sync + Send,
) -> Result<Vec<T>> {
    let len = bytes / N;
    let mut all = on_large_pages(len);
    let places = all.spare_capacity_mut()[..len].par_chunks_mut(PIECE / N);
    file.read(at, bytes, places, |bytes, places| {
        let (elements, _) = bytes.as_chunks::<N>();
        assert_eq!(elements.len(), places.len(), "a piece for its places");
        for (place, &bytes) in places.iter_mut().zip(elements) {
            place.write(element(bytes));
        }
    })?;
    // SAFETY: there is room for them, and nothing failed: each place was written.
    unsafe { all.set_len(len) };
    Ok(all)
}
