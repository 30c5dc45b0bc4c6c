//! One safetensors file, and its tensors as numbers.

use super::file::{File, PIECE};
use super::header::{self, Header, Stored};
use super::numbers::{Numbers, elements};
use super::table::Table;
use crate::error::Result;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A file and what its header says.
pub(super) struct Shard {
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

    fn new(file: File) -> Result<Self> {
        let header = header::read(&file)?;
        Ok(Self { file: Arc::new(file), header })
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
        Numbers::new(&self.file, at, bytes, stored.dtype)
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

    /// How many elements of a tensor, of `N` bytes each, fail the test.
    pub(super) fn count_nonfinite<const N: usize>(
        &self,
        stored: &Stored,
        is_finite: impl Fn([u8; N]) -> bool + Sync + Send,
    ) -> Result<usize> {
        let (at, bytes) = self.place(stored);
        let nonfinite = AtomicUsize::new(0);
        let pieces = rayon::iter::repeat_n((), bytes.div_ceil(PIECE));
        self.file.read(at, bytes, pieces, |bytes, ()| {
            let (elements, _) = bytes.as_chunks::<N>();
            let here = elements.iter().filter(|&&element| !is_finite(element)).count();
            nonfinite.fetch_add(here, Ordering::Relaxed);
        })?;
        Ok(nonfinite.into_inner())
    }
}
