//! What is rounded in front of a matrix product.

use candle_core::{D, DType, Device, Result, Tensor};
use half::f16;

/// How the input of a matrix product is rounded before it. The weights are as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum InputRounding {
    /// Not at all.
    #[default]
    Exact,
    /// To a dtype, as llama.cpp does for weights of half types.
    To(DType),
    /// To 8 bits, as llama.cpp does on a CPU for quantised weights: in blocks of 256 with a scale in f32 where rows
    /// are a multiple of that (`Q8_K`, for weights in Q4_K to Q6_K), else in blocks of 32 with a scale in f16 (`Q8_0`).
    /// `ggml/src/ggml-quants.c`, `quantize_row_q8_K_ref` and `quantize_row_q8_0_ref`.
    Q8,
}

/// Numbers that share a scale in `Q8_K`.
const Q8_K: usize = 256;
/// Numbers that share a scale in `Q8_0`.
const Q8_0: usize = 32;

impl InputRounding {
    /// The input `[..., in]`, rounded; in its own dtype.
    ///
    /// # Errors
    /// Of [`Self::Q8`], rows that are no multiple of 32; candle's.
    pub(crate) fn round(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Exact => Ok(x.clone()),
            Self::To(dtype) => x.to_dtype(dtype)?.to_dtype(x.dtype()),
            Self::Q8 => {
                let width = x.dim(D::Minus1)?;
                let (size, block): (_, fn(&mut [f32])) = match width {
                    _ if width.is_multiple_of(Q8_K) => (Q8_K, q8_k),
                    _ if width.is_multiple_of(Q8_0) => (Q8_0, q8_0),
                    _ => candle_core::bail!("rows of {width} make no blocks of {Q8_0}"),
                };
                let wide = x.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
                let mut values = wide.flatten_all()?.to_vec1::<f32>()?;
                values.chunks_exact_mut(size).for_each(block);
                Tensor::from_vec(values, x.shape(), x.device())?.to_dtype(x.dtype())
            }
        }
    }
}

/// The number of the largest magnitude becomes -127.
fn q8_k(block: &mut [f32]) {
    let largest = block.iter().fold(0f32, |max, &x| if x.abs() > max.abs() { x } else { max });
    if largest == 0.0 {
        return;
    }
    let inverse = -127.0 / largest;
    let scale = 1.0 / inverse;
    for x in block {
        *x = (inverse * *x).round_ties_even().min(127.0) * scale;
    }
}

fn q8_0(block: &mut [f32]) {
    let largest = block.iter().fold(0f32, |max, x| x.abs().max(max));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let stored = f16::from_f32(scale).to_f32();
    for x in block {
        *x = (*x * inverse).round() * stored;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bits() -> Result<()> {
        for width in [32usize, 96, 256, 512] {
            let x = Tensor::randn(0f32, 3., (5, width), &Device::Cpu)?;
            let rounded = InputRounding::Q8.round(&x)?;
            let difference = (&rounded - &x)?.abs()?.max_all()?.to_scalar::<f32>()?;
            let largest = x.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(difference > 0.0 && difference < largest / 127.0, "{width}");
        }
        let zero = Tensor::zeros((1, 256), DType::F32, &Device::Cpu)?;
        assert_eq!(InputRounding::Q8.round(&zero)?.to_vec2::<f32>()?, zero.to_vec2::<f32>()?);
        let odd = Tensor::zeros((1, 20), DType::F32, &Device::Cpu)?;
        assert!(InputRounding::Q8.round(&odd).is_err());
        Ok(())
    }
}
