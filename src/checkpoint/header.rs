//! The header of a safetensors file: which tensors it has, and where.

use super::file::File;
use crate::error::{Error, Result};
use safetensors::tensor::Metadata;

/// A length in front of everything.
const LENGTH: u64 = size_of::<u64>() as u64;

/// The longest header: the limit of safetensors itself.
const LONGEST: u64 = 100_000_000;

/// Reads the header, and nothing else, and checks it: that shapes and dtypes fill the offsets
/// exactly, without gaps or overlaps, from its own end to the end of the file. Returns with it where
/// the tensors' bytes begin.
pub(super) fn read(file: &File) -> Result<(u64, Metadata)> {
    let invalid = |reason: String| Error::Safetensors { path: file.path().into(), reason };
    if file.len() < LENGTH {
        return Err(invalid("header too small".into()));
    }
    let mut length = [0; LENGTH as usize];
    file.fill(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST {
        return Err(invalid("header too large".into()));
    }
    let data = LENGTH + length;
    if data > file.len() {
        return Err(invalid("the file ends within its header".into()));
    }
    let mut header = vec![0; length as usize];
    file.fill(LENGTH, &mut header)?;
    file.check_unchanged()?;
    let header = std::str::from_utf8(&header)
        .map_err(|e| invalid(format!("invalid UTF-8 in its header: {e}")))?;
    // The crate checks offsets, shapes and dtypes, and not where the file ends, on the way.
    let metadata: Metadata =
        serde_json::from_str(header).map_err(|e| invalid(format!("invalid header: {e}")))?;
    let end = data.checked_add(metadata.data_len() as u64);
    if end != Some(file.len()) {
        let end = end.map_or("beyond any file".into(), |end| format!("at byte {end}"));
        let reason = format!("its tensors end {end}, the file at {}", file.len());
        return Err(invalid(reason));
    }
    Ok((data, metadata))
}
