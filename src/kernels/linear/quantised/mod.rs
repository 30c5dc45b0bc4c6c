//! Quantised weights: kept in memory as blocks, and multiplied as what they stand for.
//!
//! A panel of them holds what ggml's blocks do, in another order, and takes as many bytes (of K types up to 3 % more:
//! scales of 6 bits take a byte each). Every number is dequantised exactly as ggml does it, in registers, and multiplied and
//! summed in f32 in the order of the other kernels. So a product has the bits that the same weights dequantised to f32
//! have. What they are multiplied by is not quantised.

mod format;
mod formats;
mod matmul;
mod pack;
mod quantise;
mod tensor;

pub use matmul::BlockMatmul;
pub use pack::Blocks;
pub use quantise::{dequantise, quantise};
pub use tensor::quantised;

use candle_core::quantized::GgmlDType;
use format::Format;
use formats::with_format;

/// Whether weights of a type are kept as blocks. Others are dequantised when they are packed.
pub fn is_kept(kind: GgmlDType) -> bool {
    with_format!(kind, _F => true, false)
}

/// Bits that a weight of a type takes in memory, if it is kept as blocks.
pub fn bits(kind: GgmlDType) -> Option<f64> {
    with_format!(kind, F => Some(32.0 * F::WORDS as f64 / F::GROUP as f64), None)
}

#[cfg(test)]
mod tests;
