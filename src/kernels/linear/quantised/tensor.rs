//! Matrices in memory that are quantised when they are packed.

use super::{dequantise, is_kept, quantise};
use crate::kernels::linear::matrix::{Source, deferred};
use candle_core::quantized::GgmlDType;
use candle_core::{DType, Device, Result, Tensor};
use std::ops::Range;
use std::sync::Arc;

#[derive(Debug)]
struct Quantised {
    /// `[rows, columns]`.
    weight: Tensor,
    kind: GgmlDType,
}

/// What stands for a matrix `[rows, columns]` until it is packed, and is quantised then.
///
/// # Errors
/// A type that is not kept in blocks; rows of no whole blocks; a tensor that is no matrix.
pub fn quantised(weight: &Tensor, kind: GgmlDType) -> Result<Tensor> {
    let (_, columns) = weight.dims2()?;
    if !is_kept(kind) {
        candle_core::bail!(
            "weights in {kind:?} are not kept in blocks; those in Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K and Q6K are"
        )
    }
    if !columns.is_multiple_of(kind.block_size()) {
        candle_core::bail!(
            "rows of {columns} are no whole blocks of {kind:?}, of {}",
            kind.block_size()
        )
    }
    let source = Quantised { weight: weight.clone(), kind };
    deferred(Arc::new(source), weight.dims(), DType::F32)
}

impl Source for Quantised {
    fn rows(&self, rows: Range<usize>) -> Result<Tensor> {
        let shape = (rows.len(), self.weight.dim(1)?);
        let numbers = dequantise(&self.read_blocks(rows)?, self.kind)?;
        Tensor::from_vec(numbers, shape, &Device::Cpu)
    }

    fn blocks(&self) -> Option<GgmlDType> {
        Some(self.kind)
    }

    fn read_blocks(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        let rows = self.weight.narrow(0, rows.start, rows.len())?.to_dtype(DType::F32)?;
        let numbers: Vec<f32> = rows.flatten_all()?.to_vec1()?;
        if !numbers.iter().all(|number| number.is_finite()) {
            candle_core::bail!("weights that are NaN or infinite are not quantised")
        }
        quantise(numbers, self.kind)
    }
}
