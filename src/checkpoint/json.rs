//! JSON files, within limits.

use super::file::check_regular;
use crate::error::{Error, Result};
use std::path::Path;

/// Reads a JSON file. The limit is far above any real config or index (a few hundred KB) and far
/// below what would hurt.
pub(super) fn read_text(path: &Path) -> Result<String> {
    const LIMIT: u64 = 64 << 20;
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    check_regular(path, &metadata)?;
    let size = metadata.len();
    if size > LIMIT {
        let reason = format!("{size} bytes are too many for a JSON file; the limit is {LIMIT}");
        return Err(Error::Json { path: path.into(), reason });
    }
    std::fs::read_to_string(path).map_err(Error::io(path))
}

pub(super) fn parse_json<T: serde::de::DeserializeOwned>(json: &str, path: &Path) -> Result<T> {
    serde_json::from_str(json)
        .map_err(|e| Error::Json { path: path.into(), reason: format!("malformed JSON: {e}") })
}
