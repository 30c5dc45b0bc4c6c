//! A file on its way into the cache.

use super::failure::failed;
use super::remote::{RemoteFile, sha256};
use crate::error::HubError;
use ring::digest::{Context, SHA256};
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::path::PathBuf;

/// The bytes of a file that are here. It gets its name in the cache once all are.
pub(super) struct Part {
    path: PathBuf,
    blob: PathBuf,
    file: File,
    hash: Context,
    len: u64,
    /// Held for as long as this is.
    _lock: File,
}

impl Part {
    /// Goes on with what an earlier run has left.
    pub(super) fn open(
        path: PathBuf,
        blob: PathBuf,
        lock: File,
        remote: &RemoteFile,
    ) -> Result<Self, HubError> {
        let file = File::options().read(true).append(true).create(true).open(&path);
        let file = file.map_err(failed(&path))?;
        let mut part = Self { path, blob, file, hash: Context::new(&SHA256), len: 0, _lock: lock };
        part.read_back()?;
        if part.len > remote.size {
            part.restart()?;
        }
        Ok(part)
    }

    /// The checksum is of all bytes, so the earlier ones are read again.
    fn read_back(&mut self) -> Result<(), HubError> {
        let mut buffer = vec![0; 1 << 20];
        // By its length: a device in its place would never end.
        let len = self.file.metadata().map_err(failed(&self.path))?.len();
        while self.len < len {
            match self.file.read(&mut buffer).map_err(failed(&self.path))? {
                0 => break,
                n => {
                    self.hash.update(&buffer[..n]);
                    self.len += n as u64;
                }
            }
        }
        Ok(())
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(failed(&self.path))?;
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Forgets everything.
    pub(super) fn restart(&mut self) -> Result<(), HubError> {
        self.file.set_len(0).map_err(failed(&self.path))?;
        self.hash = Context::new(&SHA256);
        self.len = 0;
        Ok(())
    }

    /// Checks what has arrived and puts it in place, or else removes it.
    pub(super) fn finish(mut self, remote: &RemoteFile) -> Result<(), HubError> {
        if let Err(error) = self.check(remote) {
            self.restart()?;
            fs::remove_file(&self.path).map_err(failed(&self.path))?;
            return Err(error);
        }
        // On the disk before it has its name: a crash must not leave a file of zeros.
        self.file.sync_all().map_err(failed(&self.path))?;
        fs::rename(&self.path, &self.blob).map_err(failed(&self.blob))
    }

    fn check(&self, remote: &RemoteFile) -> Result<(), HubError> {
        let damaged = |message| Err(HubError::Damaged { file: remote.name.clone(), message });
        if self.len != remote.size {
            return damaged(format!("{} bytes, not {}", self.len, remote.size));
        }
        if remote.sha256.as_ref().is_some_and(|listed| *listed != sha256(&self.hash)) {
            return damaged("its SHA-256 is not the one that the repository lists".into());
        }
        Ok(())
    }
}

/// An empty file would keep nothing.
impl Drop for Part {
    fn drop(&mut self) {
        if self.len == 0 {
            let _ = fs::remove_file(&self.path);
        }
    }
}
