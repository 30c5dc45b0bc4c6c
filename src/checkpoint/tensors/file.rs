//! The bytes of a file, read where and when they are asked for. Nothing is mapped: what another
//! process does to the file is an error here, and not the end of this one.

use crate::checkpoint::json::check_regular;
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// Bytes that are read at a time: they are still in the core's cache when they are converted.
pub(super) const PIECE: usize = 64 << 10;

/// Pieces that a thread takes at least, with one buffer for all.
const PIECES: usize = 32;

/// A file that is read where and when it is asked for: one that stays open, one that is opened for each
/// reading, or one in memory.
pub struct File {
    path: PathBuf,
    len: u64,
    content: Content,
}

enum Content {
    /// With the time of the last write before it was opened, where the system knows it.
    Opened(fs::File, Option<SystemTime>),
    /// With the same.
    Closed(Option<SystemTime>),
    Bytes(Cow<'static, [u8]>),
    /// Of another file, from a byte on.
    Part(Arc<File>, u64),
}

impl File {
    /// Opens a regular file. Nothing of it is read.
    ///
    /// # Errors
    /// What cannot be opened, or is no regular file.
    pub fn open(path: PathBuf) -> Result<Self> {
        let (file, len, modified) = open(&path)?;
        Ok(Self { path, len, content: Content::Opened(file, modified) })
    }

    /// A regular file that is opened for each reading: one of so many that they cannot all stay open.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn closed(path: PathBuf) -> Result<Self> {
        let (_, len, modified) = open(&path)?;
        Ok(Self { path, len, content: Content::Closed(modified) })
    }

    /// A part of it as a file of its own: so many bytes from one on; `None` if it ends before.
    pub fn part(self: &Arc<Self>, at: u64, len: u64) -> Option<Self> {
        let end = at.checked_add(len)?;
        let content = Content::Part(self.clone(), at);
        (end <= self.len).then(|| Self { path: self.path.clone(), len, content })
    }

    /// One in memory, with a path for messages.
    pub fn from_bytes(path: PathBuf, bytes: Cow<'static, [u8]>) -> Self {
        Self { path, len: bytes.len() as u64, content: Content::Bytes(bytes) }
    }

    /// What it is called.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes when it was opened.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Refuses a file that was written to since it was opened, as far as its length and the time of its
    /// last write tell. One that another took the place of is still the same: it lives on while it is
    /// open.
    pub(in crate::checkpoint) fn check_unchanged(&self) -> Result<()> {
        match &self.content {
            Content::Opened(file, modified) => {
                let now = file.metadata().map_err(Error::io(&self.path))?;
                self.compare(now.len(), now.modified().ok(), *modified)
            }
            Content::Closed(_) => self.reopen().map(drop),
            Content::Bytes(_) => Ok(()),
            Content::Part(whole, _) => whole.check_unchanged(),
        }
    }

    /// Opens a closed file again, if it is still the same.
    fn reopen(&self) -> Result<fs::File> {
        let (file, len, now) = open(&self.path)?;
        if let Content::Closed(modified) = self.content {
            self.compare(len, now, modified)?;
        }
        Ok(file)
    }

    fn compare(&self, len: u64, now: Option<SystemTime>, then: Option<SystemTime>) -> Result<()> {
        if len == self.len && now == then { Ok(()) } else { Err(self.changed()) }
    }

    /// Fills a buffer with what lies from a place on, in bytes.
    ///
    /// # Errors
    /// A file that cannot be read, or ends before the buffer is full.
    pub fn fill(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        match &self.content {
            Content::Opened(file, _) => read_exact_at(file, at, buffer).map_err(|e| self.failed(e)),
            Content::Closed(_) => {
                read_exact_at(&self.reopen()?, at, buffer).map_err(|e| self.failed(e))
            }
            Content::Part(whole, start) => {
                let end = at.checked_add(buffer.len() as u64).filter(|&end| end <= self.len);
                end.ok_or_else(|| self.changed())?;
                whole.fill(start + at, buffer)
            }
            Content::Bytes(bytes) => {
                let end = |at: usize| at.checked_add(buffer.len());
                let range = usize::try_from(at).ok().and_then(|at| Some(at..end(at)?));
                let bytes = range.and_then(|range| bytes.get(range));
                buffer.copy_from_slice(bytes.ok_or_else(|| self.changed())?);
                Ok(())
            }
        }
    }

    /// Reads so many bytes from a place on with all threads, in pieces of so many, at most [`PIECE`], of
    /// which the last may be shorter. `work` gets each piece with the item that stands in its place.
    pub(super) fn read<I: Send>(
        &self,
        at: u64,
        len: usize,
        size: usize,
        items: impl IndexedParallelIterator<Item = I>,
        work: impl Fn(&[u8], I) -> candle_core::Result<()> + Sync + Send,
    ) -> Result<()> {
        items.enumerate().with_min_len(PIECES).try_for_each_init(
            || vec![0; size.min(len)],
            |buffer, (i, item)| {
                let done = (i * size).min(len);
                let piece = &mut buffer[..size.min(len - done)];
                self.fill(at + done as u64, piece)?;
                Ok::<(), Error>(work(piece, item)?)
            },
        )?;
        // After the last piece: what was written meanwhile has moved the time by now.
        self.check_unchanged()
    }

    fn failed(&self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.changed(),
            _ => Error::io(&self.path)(error),
        }
    }

    fn changed(&self) -> Error {
        Error::Changed { path: self.path.clone() }
    }
}

/// A regular file, its length and the time of its last write.
fn open(path: &Path) -> Result<(fs::File, u64, Option<SystemTime>)> {
    // Asked before it is opened, which would wait for the other end of a pipe.
    check_regular(path, &fs::metadata(path).map_err(Error::io(path))?)?;
    let file = fs::File::open(path).map_err(Error::io(path))?;
    let metadata = file.metadata().map_err(Error::io(path))?;
    check_regular(path, &metadata)?;
    Ok((file, metadata.len(), metadata.modified().ok()))
}

#[cfg(unix)]
fn read_exact_at(file: &fs::File, at: u64, buffer: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, at)
}

#[cfg(windows)]
fn read_exact_at(file: &fs::File, mut at: u64, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                at += read as u64;
                buffer = &mut buffer[read..];
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(not(any(unix, windows)))]
fn read_exact_at(_: &fs::File, _: u64, _: &mut [u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn pieces_come_with_their_items_and_leave_nothing_out() -> Result<()> {
        let dir = tempfile::tempdir().map_err(Error::io("a temporary directory"))?;
        let path = dir.path().join("bytes");
        let bytes: Vec<u8> = (0..5 * PIECE).map(|i| (i % 251) as u8).collect();
        fs::write(&path, &bytes).map_err(Error::io(&path))?;
        let file = File::open(path)?;
        for len in [0, 1, PIECE - 1, PIECE, PIECE + 1, 4 * PIECE + 7] {
            let seen = Mutex::new(vec![vec![]; len.div_ceil(PIECE)]);
            let items = (0..len.div_ceil(PIECE)).into_par_iter();
            let keep = |piece: &[u8], i: usize| {
                seen.lock().unwrap()[i] = piece.to_vec();
                Ok(())
            };
            file.read(3, len, PIECE, items, keep)?;
            assert!(seen.into_inner().unwrap().concat() == bytes[3..3 + len], "{len}");
        }
        let end = bytes.len() as u64;
        let beyond = file.read(end - 1, 2, PIECE, [()].into_par_iter(), |_, ()| Ok(()));
        assert!(matches!(beyond, Err(Error::Changed { .. })));
        Ok(())
    }
}
