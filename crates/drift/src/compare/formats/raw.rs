//! Numbers in a file without a header.

use super::recording::InvalidRecording;
use crate::compare::plane::Plane;
use gemma_mlp::internal::{File, Numbers};
use safetensors::Dtype;
use std::path::Path;
use std::sync::Arc;

/// The plane of a shape in f32 that begins at an offset of a file, little-endian. It is read when it is asked for.
pub(super) fn raw_plane(
    path: &Path,
    offset: u64,
    shape: &[usize],
) -> Result<Plane, InvalidRecording> {
    let actual = std::fs::metadata(path)?.len();
    let count = shape.iter().try_fold(1usize, |all, len| all.checked_mul(*len));
    let end =
        count.and_then(|count| count.checked_mul(4)?.checked_add(usize::try_from(offset).ok()?));
    let too_short =
        || InvalidRecording::Size { expected: end.map_or(u64::MAX, |end| end as u64), actual };
    let malformed = |error: gemma_mlp::Error| InvalidRecording::Malformed(error.to_string());
    let file = Arc::new(File::open(path.into()).map_err(malformed)?);
    let numbers = Numbers::of(&file, offset, count.unwrap_or(usize::MAX), Dtype::F32);
    numbers.and_then(|numbers| Plane::in_file(numbers, shape.into())).ok_or_else(too_short)
}
