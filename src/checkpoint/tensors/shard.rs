//! One file of tensors, and these as numbers.

use super::elements::elements;
use super::file::{File, PIECE};
use super::header::{self, Header, Stored};
use super::numbers::Numbers;
use super::scaled::Place;
use super::storage::{Storage, blocks_at_a_time, read_dequantised};
use super::table::Table;
use crate::error::Result;
use half::{bf16, f16};
use safetensors::Dtype;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A file and what its header says.
pub(in crate::checkpoint) struct Shard {
    file: Arc<File>,
    header: Header,
}

impl Shard {
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        Self::new(File::open(path)?)
    }

    /// A file that is opened for each reading.
    pub(super) fn closed(path: PathBuf) -> Result<Self> {
        Self::new(File::closed(path)?)
    }

    /// A file in memory, with a path for messages.
    pub(super) fn from_bytes(path: &Path, bytes: Cow<'static, [u8]>) -> Result<Self> {
        Self::new(File::from_bytes(path.into(), bytes))
    }

    /// A safetensors file.
    fn new(file: File) -> Result<Self> {
        let header = header::read(&file)?;
        Ok(Self::of(Arc::new(file), header))
    }

    /// A file with what was read of its header, whatever format it has.
    pub(in crate::checkpoint) fn of(file: Arc<File>, header: Header) -> Self {
        Self { file, header }
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.file.len()
    }

    /// Refuses a file that was written to since it was opened.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        self.file.check_unchanged()
    }

    /// What its header says of itself.
    pub(super) fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// What its header says of its tensors.
    pub(super) fn tensors(&self) -> &Table<Stored> {
        &self.header.tensors
    }

    /// How many of them have another name in the file.
    pub(super) fn renamed(&self) -> usize {
        self.header.renamed
    }

    /// Where a tensor's bytes are, and how many.
    fn place(&self, stored: &Stored) -> (u64, usize) {
        let [start, end] = stored.offsets;
        (self.header.data + start as u64, end - start)
    }

    /// Whether two tensors of one length have the same bytes.
    pub(super) fn are_equal(&self, stored: &Stored, other: (&Self, &Stored)) -> Result<bool> {
        let ((at, len), (other, (other_at, other_len))) =
            (self.place(stored), (other.0, other.0.place(other.1)));
        let (mut bytes, mut others) = (vec![0; PIECE], vec![0; PIECE]);
        let mut done = 0;
        while done < len && len == other_len {
            let piece = PIECE.min(len - done);
            self.file.fill(at + done as u64, &mut bytes[..piece])?;
            other.file.fill(other_at + done as u64, &mut others[..piece])?;
            if bytes[..piece] != others[..piece] {
                return Ok(false);
            }
            done += piece;
        }
        self.check_unchanged()?;
        other.check_unchanged()?;
        Ok(len == other_len)
    }

    /// A tensor's elements, to be read later and in part.
    pub(super) fn numbers(&self, stored: &Stored) -> Numbers {
        let (at, bytes) = self.place(stored);
        let numbers = Numbers::new(&self.file, at, bytes, stored.storage).plus_one(stored.plus_one);
        numbers.scaled(stored.scaled.clone().and_then(Result::ok))
    }

    /// Where the numbers of a tensor are, if they lie there one by one.
    pub(super) fn place_of(&self, stored: &Stored) -> Option<Place> {
        let Storage::Numbers(dtype) = stored.storage else { return None };
        let (at, shape) = (self.place(stored).0, stored.shape().into());
        Some(Place { file: self.file.clone(), at, dtype, shape })
    }

    /// The file with another table of its tensors.
    pub(super) fn with_tensors(&self, tensors: Table<Stored>) -> Self {
        let Header { data, renamed, ref metadata, .. } = self.header;
        let header = Header { data, tensors, renamed, metadata: metadata.clone() };
        Self { file: self.file.clone(), header }
    }

    /// The elements of a tensor, each made of its `N` bytes by a function: read and converted by all
    /// threads, straight into their place.
    pub(super) fn elements<const N: usize, T: Copy + Send>(
        &self,
        stored: &Stored,
        element: impl Fn([u8; N]) -> T + Sync + Send,
    ) -> Result<Vec<T>> {
        let (at, bytes) = self.place(stored);
        elements(&self.file, at, bytes, element)
    }

    /// How many elements of a tensor are NaN or infinite; 0 of one that holds no floats.
    pub(super) fn count_nonfinite(&self, stored: &Stored) -> Result<usize> {
        if let Some(Ok(scaled)) = &stored.scaled {
            return scaled.count_nonfinite();
        }
        let (at, bytes) = self.place(stored);
        match stored.storage {
            Storage::Numbers(Dtype::F64) => {
                self.count(stored, |b| !f64::from_le_bytes(b).is_finite())
            }
            Storage::Numbers(Dtype::F32) => {
                self.count(stored, |b| !f32::from_le_bytes(b).is_finite())
            }
            Storage::Numbers(Dtype::BF16) => {
                self.count(stored, |b| !bf16::from_le_bytes(b).is_finite())
            }
            Storage::Numbers(Dtype::F16) => {
                self.count(stored, |b| !f16::from_le_bytes(b).is_finite())
            }
            Storage::Numbers(_) | Storage::Codes(_) => Ok(0),
            Storage::Blocks(kind) => {
                let nonfinite = AtomicUsize::new(0);
                let blocks = bytes / kind.type_size();
                let pieces = rayon::iter::repeat_n((), blocks.div_ceil(blocks_at_a_time(kind)));
                read_dequantised(&self.file, at, blocks, kind, pieces, |numbers, ()| {
                    let here = numbers.iter().filter(|number| !number.is_finite()).count();
                    nonfinite.fetch_add(here, Ordering::Relaxed);
                })?;
                Ok(nonfinite.into_inner())
            }
        }
    }

    /// How many elements of a tensor, of `N` bytes each, are of a kind.
    fn count<const N: usize>(
        &self,
        stored: &Stored,
        is: impl Fn([u8; N]) -> bool + Sync + Send,
    ) -> Result<usize> {
        let (at, bytes) = self.place(stored);
        let count = AtomicUsize::new(0);
        let pieces = rayon::iter::repeat_n((), bytes.div_ceil(PIECE));
        self.file.read(at, bytes, PIECE, pieces, |bytes, ()| {
            let (elements, _) = bytes.as_chunks::<N>();
            let here = elements.iter().filter(|&&element| is(element)).count();
            count.fetch_add(here, Ordering::Relaxed);
            Ok(())
        })?;
        Ok(count.into_inner())
    }
}
