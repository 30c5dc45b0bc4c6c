//! A file that is read from front to back, a piece at a time.

use crate::checkpoint::tensors::File;
use crate::error::{Error, Result};

/// Bytes that are read at a time.
const WINDOW: usize = 256 << 10;

/// The most bytes that are asked for at once.
pub(super) const LONGEST: usize = 1 << 20;

/// A place in a file, with what was read ahead of it.
pub(super) struct Cursor<'a> {
    file: &'a File,
    at: u64,
    window: Vec<u8>,
    /// Where the window begins.
    start: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a File, at: u64) -> Self {
        Self { file, at, window: vec![], start: at }
    }

    /// Where it is.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The next bytes, at most [`LONGEST`].
    pub(super) fn take(&mut self, len: usize) -> Result<&[u8]> {
        let from = self.at;
        self.skip(len as u64)?;
        let offset = usize::try_from(from - self.start).ok();
        let here = offset.filter(|offset| offset.saturating_add(len) <= self.window.len());
        let offset = match here {
            Some(offset) => offset,
            None => {
                debug_assert!(len <= LONGEST, "{len} bytes at once");
                let left = (self.file.len() - from).min(WINDOW.max(len) as u64);
                self.window.resize(left as usize, 0);
                self.start = from;
                self.file.fill(from, &mut self.window)?;
                0
            }
        };
        Ok(&self.window[offset..offset + len])
    }

    /// Passes over so many bytes.
    pub(super) fn skip(&mut self, len: u64) -> Result<()> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.file.len());
        self.at = end.ok_or_else(|| self.invalid("the file ends within its header"))?;
        Ok(())
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next bytes of a number.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    /// A text with its length in front, of at most so many bytes; `what` it is stands in messages.
    pub(super) fn text(&mut self, longest: usize, what: &str) -> Result<&str> {
        let (len, path) = (self.u64()?, self.file.path());
        let fits = usize::try_from(len).ok().filter(|&len| len <= longest.min(LONGEST));
        let Some(len) = fits else {
            return Err(
                self.invalid(&format!("{what} has {len} bytes; at most {longest} are read"))
            );
        };
        let at = self.at;
        std::str::from_utf8(self.take(len)?).map_err(|_| Error::Gguf {
            path: path.into(),
            reason: format!("{what}, at byte {at}, is not UTF-8"),
        })
    }

    /// The error about what stands in the file.
    pub(super) fn invalid(&self, reason: &str) -> Error {
        Error::Gguf { path: self.file.path().into(), reason: reason.into() }
    }
}
