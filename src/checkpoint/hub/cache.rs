//! One repository in the cache, laid out as `huggingface_hub` does: `blobs` by checksum, a
//! directory of links per commit under `snapshots`, and the commit of every name under `refs`.

use super::failure::failed;
use super::id::{RepoId, is_commit};
use super::part::Part;
use super::remote::RemoteFile;
use crate::error::HubError;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

pub(super) struct RepoCache {
    repo: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    pub(super) fn new(cache: &Path, id: &RepoId) -> Self {
        let folder = id.folder();
        Self { repo: cache.join(&folder), locks: cache.join(".locks").join(folder) }
    }

    /// The commit that a revision was at when it was last fetched.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.into());
        }
        let commit = fs::read_to_string(self.repo.join("refs").join(revision)).ok()?;
        Some(commit.trim().to_string()).filter(|commit| is_commit(commit))
    }

    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) {
            return Ok(());
        }
        if self.commit(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        put(&self.repo.join("refs").join(revision), |beside| fs::write(beside, commit))
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.repo.join("snapshots").join(commit)
    }

    pub(super) fn path(&self, commit: &str, name: &str) -> PathBuf {
        self.snapshot(commit).join(name)
    }

    pub(super) fn has(&self, commit: &str, name: &str) -> bool {
        self.path(commit, name).is_file()
    }

    /// The file, if it is here in full; a link is made where only its bytes are.
    pub(super) fn find(
        &self,
        commit: &str,
        file: &RemoteFile,
    ) -> Result<Option<PathBuf>, HubError> {
        let path = self.path(commit, &file.name);
        if has_size(&path, file.size) {
            return Ok(Some(path));
        }
        if !has_size(&self.blob(file), file.size) {
            return Ok(None);
        }
        self.link(commit, file)?;
        Ok(Some(path))
    }

    /// How many bytes of the file need not be fetched.
    pub(super) fn here(&self, commit: &str, file: &RemoteFile) -> u64 {
        let whole = [self.path(commit, &file.name), self.blob(file)];
        if whole.iter().any(|path| has_size(path, file.size)) {
            return file.size;
        }
        let part = fs::metadata(self.part_path(file)).map_or(0, |part| part.len());
        if part > file.size { 0 } else { part }
    }

    /// Waits for other processes that fetch the file.
    pub(super) fn lock(&self, file: &RemoteFile) -> Result<fs::File, HubError> {
        let path = self.locks.join(format!("{}.lock", file.blob));
        create_parent(&path)?;
        let lock = fs::File::create(&path).and_then(|file| file.lock().map(|()| file));
        lock.map_err(failed(&path))
    }

    /// What has arrived of a file, which no other process adds to for as long as it is locked.
    pub(super) fn part(&self, file: &RemoteFile, lock: fs::File) -> Result<Part, HubError> {
        let blob = self.blob(file);
        create_parent(&blob)?;
        Part::open(self.part_path(file), blob, lock, file)
    }

    /// Not `.incomplete`: other tools fill those out of order, so that their length says nothing.
    fn part_path(&self, file: &RemoteFile) -> PathBuf {
        self.repo.join("blobs").join(format!("{}.part", file.blob))
    }

    fn blob(&self, file: &RemoteFile) -> PathBuf {
        self.repo.join("blobs").join(&file.blob)
    }

    fn link(&self, commit: &str, file: &RemoteFile) -> Result<(), HubError> {
        put(&self.path(commit, &file.name), |beside| {
            #[cfg(unix)]
            return std::os::unix::fs::symlink(format!("../../blobs/{}", file.blob), beside);
            // Elsewhere links by name take rights that users lack.
            #[cfg(not(unix))]
            return fs::hard_link(self.blob(file), beside);
        })
    }
}

/// Makes a file at once: whoever looks finds the old one or the new.
fn put(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), HubError> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    create_parent(path)?;
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut beside = path.as_os_str().to_os_string();
    beside.push(format!(".{}-{number}.new", std::process::id()));
    let beside = Path::new(&beside);
    let made = make(beside).and_then(|()| fs::rename(beside, path));
    made.map_err(|error| {
        let _ = fs::remove_file(beside);
        failed(path)(error)
    })
}

fn has_size(path: &Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == size)
}

fn create_parent(path: &Path) -> Result<(), HubError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(failed(parent))
}
