//! One safetensors file, and its tensors as numbers.

use super::file::{File, PIECE};
use super::header;
use crate::error::Result;
use crate::kernels::memory::on_large_pages;
use rayon::prelude::*;
use safetensors::tensor::{Metadata, TensorInfo};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A file and what its header says.
pub(super) struct Shard {
    file: File,
    /// Where the tensors' bytes begin, behind the header.
    data: u64,
    metadata: Metadata,
}

impl Shard {
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        Self::new(File::open(path)?)
    }

    /// A file that is part of the program, with a path for messages.
    #[cfg(feature = "embedded")]
    pub(super) fn from_static(path: &Path, bytes: &'static [u8]) -> Result<Self> {
        Self::new(File::from_static(path.into(), bytes))
    }

    fn new(file: File) -> Result<Self> {
        let (data, metadata) = header::read(&file)?;
        Ok(Self { file, data, metadata })
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

    /// The names of its tensors.
    pub(super) fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// What the header says of a tensor.
    pub(super) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.metadata.info(name)
    }

    /// Where a tensor's bytes are, and how many.
    fn place(&self, info: &TensorInfo) -> (u64, usize) {
        let (start, end) = info.data_offsets;
        (self.data + start as u64, end - start)
    }

    /// The elements of a tensor, each made of its `N` bytes by a function: read and converted by all
    /// threads, straight into their place.
    pub(super) fn elements<const N: usize, T: Copy + Send>(
        &self,
        info: &TensorInfo,
        element: impl Fn([u8; N]) -> T + Sync + Send,
    ) -> Result<Vec<T>> {
        let (at, bytes) = self.place(info);
        let len = bytes / N;
        let mut all = on_large_pages(len);
        let places = all.spare_capacity_mut()[..len].par_chunks_mut(PIECE / N);
        self.file.read(at, bytes, places, |bytes, places| {
            let (stored, _) = bytes.as_chunks::<N>();
            assert_eq!(stored.len(), places.len(), "a piece for its places");
            for (place, &stored) in places.iter_mut().zip(stored) {
                place.write(element(stored));
            }
        })?;
        // SAFETY: there is room for them, and nothing failed: each place was written.
        unsafe { all.set_len(len) };
        Ok(all)
    }

    /// How many elements of a tensor, of `N` bytes each, fail the test.
    pub(super) fn count_nonfinite<const N: usize>(
        &self,
        info: &TensorInfo,
        is_finite: impl Fn([u8; N]) -> bool + Sync + Send,
    ) -> Result<usize> {
        let (at, bytes) = self.place(info);
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
