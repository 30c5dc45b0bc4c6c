//! What is rounded in front of a matrix product.

use candle_core::quantized::GgmlDType;
use candle_core::{D, DType, Device, Result, Tensor};
use half::f16;

/// How the input of a matrix product is rounded before it. The weights are as they are.
///
/// Both roundings to 8 bits are **proven** bit for bit against ggml of llama-cpp-python 0.3.36 on x86-64 with AVX2:
/// `quantize_row_q8_0` and `quantize_row_q8_K` of libggml-cpu, and the kernels that take four rows at a time. ggml's
/// portable C takes 2 numbers in a million to the neighbouring step; kernels of other processors and of GPUs were not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum InputRounding {
    /// Not at all.
    #[default]
    Exact,
    /// To a dtype, as llama.cpp does for weights of half types.
    To(DType),
    /// To 8 bits as llama.cpp does on a CPU for weights in blocks of 32: `Q8_0`, a scale in f16 for 32 numbers.
    Q8_0,
    /// To 8 bits as llama.cpp does on a CPU for weights in blocks of 256 (Q2_K to Q6_K): `Q8_K`, a scale in f32 for 256
    /// numbers. Rows that are no multiple of 256 are rounded as [`Self::Q8_0`] says: a file of these types has them in
    /// blocks of 32.
    Q8,
}

/// Numbers that share a scale in `Q8_K`.
const Q8_K: usize = 256;
/// Numbers that share a scale in `Q8_0`.
const Q8_0: usize = 32;

impl InputRounding {
    /// What llama.cpp's CPU kernels round the input to for weights of one of ggml's types (`vec_dot_type` in
    /// `ggml-cpu.c`).
    ///
    /// For Q4_1 and Q5_1 it also rounds the sum of each 32 inputs to f16, by which the blocks' offset is multiplied: that is
    /// no rounding of an input, and left out.
    pub fn of(weights: GgmlDType) -> Self {
        match weights {
            GgmlDType::F32 => Self::Exact,
            GgmlDType::F16 => Self::To(DType::F16),
            GgmlDType::BF16 => Self::To(DType::BF16),
            _ if weights.block_size() == Q8_K => Self::Q8,
            _ => Self::Q8_0,
        }
    }

    /// The input `[..., in]`, rounded; in its own dtype.
    ///
    /// # Errors
    /// Of 8 bits, rows that are no multiple of 32; candle's.
    pub(crate) fn round(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Exact => Ok(x.clone()),
            // By way of f32, in which llama.cpp has it: half rounds an f64 by its first 20 bits alone.
            Self::To(dtype) => x.to_dtype(DType::F32)?.to_dtype(dtype)?.to_dtype(x.dtype()),
            Self::Q8_0 | Self::Q8 => {
                let width = x.dim(D::Minus1)?;
                let (size, block): (_, fn(&mut [f32])) = match width {
                    _ if self == Self::Q8 && width.is_multiple_of(Q8_K) => (Q8_K, q8_k),
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

/// How a module rounds the inputs of its products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InputRoundings {
    /// Of those that take what the module is given: queries, keys and values; gate and up.
    pub entering: InputRounding,
    /// Of the one that makes what it returns: attention's output, down.
    pub leaving: InputRounding,
}

impl InputRoundings {
    /// Whether nothing is rounded.
    pub(crate) fn are_exact(self) -> bool {
        self == Self::default()
    }
}

/// One for all products.
impl From<InputRounding> for InputRoundings {
    fn from(all: InputRounding) -> Self {
        Self { entering: all, leaving: all }
    }
}

/// `quantize_row_q8_K`: the number of the largest magnitude becomes -127. Blocks that are too small for their inverse scale
/// become 0.
fn q8_k(block: &mut [f32]) {
    let largest = block.iter().fold(0f32, |max, &x| if x.abs() > max.abs() { x } else { max });
    let inverse = -127.0 / largest;
    let (inverse, scale) =
        if inverse.is_infinite() { (0.0, 0.0) } else { (inverse, 1.0 / inverse) };
    for x in block {
        *x = (inverse * *x).round_ties_even() * scale;
    }
}

/// `quantize_row_q8_0` with AVX: it divides 127 by the largest magnitude and rounds ties to even, where the portable
/// `quantize_row_q8_0_ref` divides 1 by the scale and rounds them away from 0.
fn q8_0(block: &mut [f32]) {
    let largest = block.iter().fold(0f32, |max, x| x.abs().max(max));
    let stored = f16::from_f32(largest / 127.0).to_f32();
    let inverse = if stored == 0.0 { 0.0 } else { 127.0 / largest };
    for x in block {
        *x = (*x * inverse).round_ties_even() * stored;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bits() -> Result<()> {
        for rounding in [InputRounding::Q8_0, InputRounding::Q8] {
            for width in [32usize, 96, 256, 512] {
                let x = Tensor::randn(0f32, 3., (5, width), &Device::Cpu)?;
                let rounded = rounding.round(&x)?;
                let difference = (&rounded - &x)?.abs()?.max_all()?.to_scalar::<f32>()?;
                let largest = x.abs()?.max_all()?.to_scalar::<f32>()?;
                assert!(difference > 0.0 && difference < largest / 127.0, "{width}");
            }
            let zero = Tensor::zeros((1, 256), DType::F32, &Device::Cpu)?;
            assert_eq!(rounding.round(&zero)?.to_vec2::<f32>()?, zero.to_vec2::<f32>()?);
            let odd = Tensor::zeros((1, 20), DType::F32, &Device::Cpu)?;
            assert!(rounding.round(&odd).is_err());
        }
        Ok(())
    }

    /// What ggml's own kernels make of the rows (`scripts/goldens_gguf.py`).
    #[test]
    fn eight_bits_are_those_of_ggml() -> Result<()> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/gguf/ggml.safetensors");
        let goldens = candle_core::safetensors::load(path, &Device::Cpu)?;
        let numbers = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
        for (rounding, name) in [(InputRounding::Q8_0, "q8_0"), (InputRounding::Q8, "q8_K")] {
            let (ours, theirs) = (rounding.round(&goldens["x"])?, &goldens[name]);
            assert_eq!(numbers(&ours)?, numbers(theirs)?, "{name}");
            // Whatever the row, and in f64 too.
            let wide = rounding.round(&goldens["x"].to_dtype(DType::F64)?)?;
            assert_eq!(numbers(&wide.to_dtype(DType::F32)?)?, numbers(theirs)?, "{name} of f64");
        }
        Ok(())
    }

    /// Of every type that weights may have.
    #[test]
    fn by_the_type_of_weights() {
        use GgmlDType as D;
        let of_32 = [D::Q4_0, D::Q4_1, D::Q5_0, D::Q5_1, D::Q8_0];
        let of_256 = [D::Q2K, D::Q3K, D::Q4K, D::Q5K, D::Q6K];
        assert!(of_32.iter().all(|&kind| InputRounding::of(kind) == InputRounding::Q8_0));
        assert!(of_256.iter().all(|&kind| InputRounding::of(kind) == InputRounding::Q8));
        assert_eq!(InputRounding::of(D::F32), InputRounding::Exact);
        assert_eq!(InputRounding::of(D::BF16), InputRounding::To(DType::BF16));
        assert_eq!(InputRounding::of(D::F16), InputRounding::To(DType::F16));
    }

    /// What is no number stays none, and does not become one of the block's.
    #[test]
    fn no_number_is_made_up() -> Result<()> {
        for rounding in [InputRounding::Q8_0, InputRounding::Q8] {
            for (bad, rest) in [(f32::NAN, 1.0), (f32::NAN, 0.0), (f32::INFINITY, 1.0)] {
                let mut x = vec![rest; 256];
                x[7] = bad;
                let rounded = rounding.round(&Tensor::new(x, &Device::Cpu)?)?.to_vec1::<f32>()?;
                assert!(rounded[7].is_nan(), "{rounding:?}: {bad} beside {rest}");
            }
        }
        Ok(())
    }
}
