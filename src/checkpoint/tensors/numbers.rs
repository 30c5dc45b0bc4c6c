//! Numbers that lie one behind the other in a file.

use super::elements::elements;
use super::file::File;
use super::scaled::Scaled;
use super::storage::{Storage, blocks_at_a_time, read_dequantised};
use crate::error::{Error, Result};
use crate::kernels::linear::quantised::{dequantise, quantise};
use crate::kernels::memory::on_large_pages;
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Numbers of one kind in a file, which are read where and when they are asked for. Cloning shares the
/// file.
#[derive(Clone)]
pub struct Numbers {
    file: Arc<File>,
    /// Where they begin, in bytes.
    at: u64,
    /// How many there are.
    len: usize,
    storage: Storage,
    /// Whether the file has every one plus 1.
    plus_one: bool,
    /// The weight whose codes they are.
    scaled: Option<Arc<Scaled>>,
    /// What they are turned into when they are read.
    requantised: Option<Requantised>,
}

/// Blocks or halves that floats are turned into.
#[derive(Clone)]
struct Requantised {
    /// The tensor.
    name: Arc<str>,
    storage: Storage,
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, at, len, storage, .. } = self;
        write!(f, "{len} of {storage} from byte {at} of {}", file.path().display())
    }
}

impl Numbers {
    pub(super) fn new(file: &Arc<File>, at: u64, bytes: usize, storage: Storage) -> Self {
        let len = storage.numbers(bytes);
        Self {
            file: file.clone(),
            at,
            len,
            storage,
            plus_one: false,
            scaled: None,
            requantised: None,
        }
    }

    /// Numbers of which the file has every one plus 1, if it does. They are read in f32.
    pub(super) fn plus_one(self, plus_one: bool) -> Self {
        Self { plus_one, ..self }
    }

    /// Those of a weight of codes, in place of the codes.
    pub(super) fn scaled(self, scaled: Option<Arc<Scaled>>) -> Self {
        match scaled {
            Some(scaled) => {
                let (len, storage) = (scaled.len(), Storage::Codes(scaled.codes()));
                Self { len, storage, scaled: Some(scaled), ..self }
            }
            None => self,
        }
    }

    /// The numbers of a tensor as other ones, quantised or rounded when they are read.
    pub(super) fn requantised(self, name: &str, storage: Option<Storage>) -> Self {
        let requantised = storage.map(|storage| Requantised { name: name.into(), storage });
        Self { requantised, ..self }
    }

    /// So many numbers from a byte on; `None` if the file ends before.
    pub fn of(file: &Arc<File>, at: u64, len: usize, dtype: Dtype) -> Option<Self> {
        let bytes = len.checked_mul(dtype.bitsize())? / 8;
        let end = at.checked_add(bytes as u64)?;
        (end <= file.len()).then(|| Self::new(file, at, bytes, Storage::Numbers(dtype)))
    }

    /// How many there are.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// What they are stored as, or turned into.
    pub fn storage(&self) -> Storage {
        self.requantised.as_ref().map_or(self.storage, |requantised| requantised.storage)
    }

    /// What they are read as.
    pub fn dtype(&self) -> Dtype {
        match self.storage() {
            Storage::Numbers(dtype) if !self.plus_one => dtype,
            _ => Dtype::F32,
        }
    }

    /// That as candle's, if [`Self::tensor`] reads them.
    pub fn float(&self) -> Option<DType> {
        Storage::Numbers(self.dtype()).float()
    }

    /// Some of them, as they are stored, as a tensor on the CPU; quantised ones, and those of which the file
    /// has another number, in f32.
    ///
    /// # Errors
    /// Numbers that are no floats of 16 to 64 bits; a shape of more or fewer; a range beyond the end; a
    /// file that cannot be read, or was written to since it was opened.
    pub fn tensor(&self, range: Range<usize>, shape: &[usize]) -> Result<Tensor> {
        let cpu = &Device::Cpu;
        match self.requantised.as_ref().map(|requantised| requantised.storage) {
            Some(Storage::Blocks(kind)) => {
                let size = kind.block_size();
                let whole = range.start / size * size..range.end.next_multiple_of(size);
                let mut numbers = dequantise(&self.blocks(whole.clone())?, kind)?;
                numbers.truncate(range.end - whole.start);
                return Ok(Tensor::from_vec(
                    numbers.split_off(range.start - whole.start),
                    shape,
                    cpu,
                )?);
            }
            Some(_) => {
                let rounded = self.read_f32(range)?.into_iter().map(f16::from_f32).collect();
                return Ok(Tensor::from_vec::<_, f16>(rounded, shape, cpu)?);
            }
            None => {}
        }
        if self.plus_one || self.storage.is_quantised() {
            return Ok(Tensor::from_vec(self.read_f32(range)?, shape, cpu)?);
        }
        let tensor = match self.dtype() {
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

    /// The blocks that some of them lie in, as they are stored, or as they are quantised.
    ///
    /// # Errors
    /// Numbers that are not in blocks; a range that is no whole blocks, or beyond the end; NaN or infinite ones that are to
    /// be quantised; a file that cannot be read, or was written to since it was opened.
    pub fn blocks(&self, range: Range<usize>) -> Result<Vec<u8>> {
        self.check(&range)?;
        let Storage::Blocks(kind) = self.storage() else {
            return Err(self.input(format!("{self:?} are not in blocks")));
        };
        let bytes = |numbers: usize| self.storage().bytes(numbers);
        let (Some(start), Some(end)) = (bytes(range.start), bytes(range.end)) else {
            return Err(self.input(format!("numbers {range:?} of {self:?} are no whole blocks")));
        };
        if let Some(Requantised { name, .. }) = &self.requantised {
            let numbers = self.read_f32(range)?;
            if !numbers.iter().all(|number| number.is_finite()) {
                return Err(self.input(format!(
                    "tensor '{name}' has NaN or infinite weights, which are not quantised; find out where they come from"
                )));
            }
            return Ok(quantise(numbers, kind)?);
        }
        let mut blocks = vec![0; end - start];
        self.file.fill(self.at + start as u64, &mut blocks)?;
        self.file.check_unchanged()?;
        Ok(blocks)
    }

    /// Some of them in f32, whatever they are stored as.
    fn read_f32(&self, range: Range<usize>) -> Result<Vec<f32>> {
        if let Some(scaled) = &self.scaled {
            self.check(&range)?;
            return scaled.read(range);
        }
        let mut numbers = match self.storage {
            Storage::Blocks(kind) => self.dequantised(range, kind),
            Storage::Numbers(Dtype::F64) => self.read(range, |b| f64::from_le_bytes(b) as f32),
            Storage::Numbers(Dtype::F32) => self.read(range, f32::from_le_bytes),
            Storage::Numbers(Dtype::BF16) => self.read(range, |b| bf16::from_le_bytes(b).to_f32()),
            Storage::Numbers(Dtype::F16) => self.read(range, |b| f16::from_le_bytes(b).to_f32()),
            Storage::Numbers(_) | Storage::Codes(_) => {
                Err(self.input(format!("{} is no dtype of floats that are read", self.storage)))
            }
        }?;
        if self.plus_one {
            numbers.iter_mut().for_each(|number| *number -= 1.0);
        }
        Ok(numbers)
    }

    /// Some of them out of their blocks, of which all are read that have one.
    fn dequantised(&self, range: Range<usize>, kind: GgmlDType) -> Result<Vec<f32>> {
        self.check(&range)?;
        let block = kind.block_size();
        let (first, end) = (range.start / block, range.end.div_ceil(block));
        let len = (end - first) * block;
        let mut all = on_large_pages(len);
        let places = all.spare_capacity_mut()[..len].par_chunks_mut(blocks_at_a_time(kind) * block);
        let at = self.at + (first * kind.type_size()) as u64;
        read_dequantised(&self.file, at, end - first, kind, places, |numbers, places| {
            assert_eq!(numbers.len(), places.len(), "a piece for its places");
            for (place, &number) in places.iter_mut().zip(numbers) {
                place.write(number);
            }
        })?;
        // SAFETY: there is room for them, and nothing failed: each place was written.
        unsafe { all.set_len(len) };
        all.truncate(range.end - first * block);
        all.drain(..range.start - first * block);
        Ok(all)
    }

    /// Some of them as token ids or positions: `None` for a number that is not whole, is negative or takes
    /// more than 32 bits.
    ///
    /// # Errors
    /// Numbers that are neither integers of 8 to 64 bits nor floats of 16 to 64; as [`Self::tensor`].
    pub fn ids(&self, range: Range<usize>) -> Result<Vec<Option<u32>>> {
        let whole =
            |x: f64| (x.fract() == 0.0 && x >= 0.0 && x <= f64::from(u32::MAX)).then_some(x as u32);
        if self.storage.is_quantised() {
            return Err(
                self.input(format!("{} is no type of token ids or positions", self.storage))
            );
        }
        match self.dtype() {
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
        self.check(&range)?;
        let at = self.at + (range.start * N) as u64;
        elements(&self.file, at, range.len() * N, element)
    }

    fn check(&self, range: &Range<usize>) -> Result<()> {
        match range.start > range.end || range.end > self.len {
            true => Err(self.input(format!("it has no numbers {range:?}, but {}", self.len))),
            false => Ok(()),
        }
    }

    fn input(&self, what: String) -> Error {
        Error::Input(format!("{}: {what}", self.file.path().display()))
    }
}
