//! Tensors as a safetensors file. The safetensors crate writes metadata in an order that differs from run to run, and
//! readies a copy of every tensor at once.

use candle_core::Tensor;
use safetensors::tensor::{Dtype, TensorInfo};
use serde_json::Value;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};

/// How many elements are copied from a device at a time.
const PIECE: usize = 1 << 20;

/// Writes tensors, those of wide dtypes first, as the format's alignment asks, then by name.
pub(crate) fn write<'a>(
    tensors: impl Iterator<Item = (&'a str, &'a Tensor)>,
    metadata: BTreeMap<&str, String>,
    to: impl Write,
) -> io::Result<()> {
    let mut tensors: Vec<_> = tensors
        .map(|(name, tensor)| (Reverse(Dtype::from(tensor.dtype())), name, tensor))
        .collect();
    tensors.sort_by_key(|&(dtype, name, _)| (dtype, name));
    let mut header = BTreeMap::from([("__metadata__", serde_json::to_value(metadata)?)]);
    let mut end = 0;
    for &(Reverse(dtype), name, tensor) in &tensors {
        let start = end;
        end += tensor.elem_count() * tensor.dtype().size_in_bytes();
        let info = TensorInfo { dtype, shape: tensor.dims().to_vec(), data_offsets: (start, end) };
        header.insert(name, serde_json::to_value(info)?);
    }
    let mut to = BufWriter::with_capacity(PIECE, to);
    write_header(&header, &mut to)?;
    for (_, _, tensor) in tensors {
        write_elements(tensor, &mut to)?;
    }
    to.flush()
}

/// Its length and JSON, with spaces up to a multiple of eight bytes.
fn write_header(header: &BTreeMap<&str, Value>, to: &mut impl Write) -> io::Result<()> {
    let mut json = serde_json::to_vec(header)?;
    json.resize(json.len().next_multiple_of(8), b' ');
    to.write_all(&(json.len() as u64).to_le_bytes())?;
    to.write_all(&json)
}

fn write_elements(tensor: &Tensor, to: &mut impl Write) -> io::Result<()> {
    let flat = tensor.flatten_all().map_err(io_error)?;
    let len = tensor.elem_count();
    for at in (0..len).step_by(PIECE) {
        let piece = flat.narrow(0, at, PIECE.min(len - at)).map_err(io_error)?;
        piece.write_bytes(to).map_err(io_error)?;
    }
    Ok(())
}

fn io_error(error: candle_core::Error) -> io::Error {
    match error {
        candle_core::Error::Io(error) => error,
        other => io::Error::other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};
    use safetensors::SafeTensors;
    use std::collections::HashMap;

    /// What candle saves and we write is read as the same, whatever the layout in memory.
    #[test]
    fn read_as_written() -> anyhow::Result<()> {
        let wide = Tensor::arange(0f64, 12.0, &Device::Cpu)?.reshape((3, 4))?;
        let odd = Tensor::arange(0f32, 5.0, &Device::Cpu)?.to_dtype(DType::BF16)?;
        let long = Tensor::arange(0f32, 2.0 * PIECE as f32 + 3.0, &Device::Cpu)?;
        let tensors = [
            ("odd", odd),
            ("b.transposed", wide.t()?),
            ("long", long.narrow(0, 1, 2 * PIECE + 1)?),
            ("none", Tensor::zeros((0, 3), DType::F32, &Device::Cpu)?),
            ("a \"quoted\" Ä", wide.narrow(1, 1, 2)?),
        ];
        let metadata = || BTreeMap::from([("b", "2\n".to_string()), ("a", String::new())]);
        let mut bytes = vec![];
        write(tensors.iter().map(|(name, t)| (*name, t)), metadata(), &mut bytes)?;
        let kept = metadata().into_iter().map(|(key, value)| (key.to_string(), value)).collect();
        let theirs = safetensors::serialize(tensors.iter().map(|(n, t)| (*n, t)), Some(kept))?;
        let parsed = |bytes| {
            let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
            let info = |(name, info): (String, &TensorInfo)| {
                (name, (info.dtype, info.shape.clone(), info.data_offsets))
            };
            let infos: HashMap<_, _> = header.tensors().into_iter().map(info).collect();
            (header.metadata().clone(), infos)
        };
        assert_eq!(parsed(&bytes), parsed(&theirs));
        let data = bytes.len()
            - tensors
                .iter()
                .map(|(_, t)| t.elem_count() * t.dtype().size_in_bytes())
                .sum::<usize>();
        assert_eq!(data % 8, 0);
        assert!(bytes[data..] == theirs[data..] && bytes.len() == theirs.len());
        Ok(())
    }
}
