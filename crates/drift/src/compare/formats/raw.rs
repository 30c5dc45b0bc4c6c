//! Numbers in a file without a header.

use super::recording::InvalidRecording;
use crate::compare::plane::Plane;
use candle_core::{DType, Device, Tensor};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// The plane of a shape that begins at an offset of a file, little-endian.
pub(super) fn raw_plane(
    path: &Path,
    offset: u64,
    dtype: DType,
    shape: &[usize],
) -> Result<Plane, InvalidRecording> {
    let count = shape.iter().try_fold(1usize, |all, len| all.checked_mul(*len));
    let bytes = count.and_then(|count| count.checked_mul(dtype.size_in_bytes()));
    let end = bytes.and_then(|len| offset.checked_add(len as u64)).unwrap_or(u64::MAX);
    let mut file = File::open(path)?;
    let actual = file.metadata()?.len();
    if end > actual {
        return Err(InvalidRecording::Size { expected: end, actual });
    }
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = vec![0; bytes.unwrap_or_default()];
    file.read_exact(&mut bytes)?;
    let tensor = Tensor::from_raw_buffer(&bytes, dtype, shape, &Device::Cpu);
    Ok(Plane::new(tensor.map_err(|error| InvalidRecording::Malformed(error.to_string()))?))
}
