//! JSON files, within limits.

use crate::error::{Error, Result};
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::Path;

/// Reads a JSON file. The limit is far above any real config or index (a few hundred KB) and far
/// below what would hurt. A byte order mark in front, which some editors leave, is not part of it.
pub fn read_text(path: &Path) -> Result<String> {
    const LIMIT: u64 = 64 << 20;
    let metadata = fs::metadata(path).map_err(Error::io(path))?;
    check_regular(path, &metadata)?;
    let mut bytes = vec![];
    // Some files of the system have no length, and no end.
    let file = fs::File::open(path).map_err(Error::io(path))?;
    file.take(LIMIT + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > LIMIT {
        return Err(malformed(
            path,
            format!("more than {LIMIT} bytes, which is too much for a JSON file"),
        ));
    }
    if is_lfs_pointer(&bytes) {
        return Err(Error::GitLfs { path: path.into() });
    }
    let text = String::from_utf8(bytes)
        .map_err(|e| malformed(path, format!("not a JSON file: {}", e.utf8_error())))?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_string(),
        None => text,
    })
}

/// Whether a file is what Git leaves in place of a large one that was not fetched.
pub fn is_lfs_pointer(beginning: &[u8]) -> bool {
    beginning.starts_with(b"version https://git-lfs.github.com/spec/")
}

/// Parses JSON, with a path for messages.
pub fn parse_json<'a, T: serde::Deserialize<'a>>(json: &'a str, path: &Path) -> Result<T> {
    serde_json::from_str(json).map_err(|e| malformed(path, format!("malformed JSON: {e}")))
}

/// Refuses what is no regular file, whose length says nothing or whose bytes may never come.
pub(super) fn check_regular(path: &Path, metadata: &fs::Metadata) -> Result<()> {
    if metadata.is_file() { Ok(()) } else { Err(Error::NotAFile { path: path.into() }) }
}

/// The error about a JSON file that is read and cannot be followed.
pub(super) fn malformed(path: &Path, reason: impl fmt::Display) -> Error {
    Error::Json { path: path.into(), reason: reason.to_string() }
}
