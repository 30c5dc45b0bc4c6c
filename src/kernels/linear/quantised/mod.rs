//! Quantised weights: kept in memory as blocks, and multiplied as what they stand for.
//!
//! A panel of them holds what ggml's blocks do, in another order, and takes as many bytes (of K types up to 3 % more:
//! scales of 6 bits take a byte each). A product is the one of the numbers that ggml dequantises, which are not rounded, with
//! x, which is not quantised: `scale·Σ code·x + offset·Σ x` over each run of columns that share a scale, in f32, one run
//! after the other. So it differs from the product with the same weights in f32 by the rounding of sums alone, and has its
//! own bits for any number of threads, batch and instruction set.

mod format;
mod formats;
mod input;
mod matmul;
mod pack;
mod quantise;
mod runs;
mod tensor;
mod widen;

pub use input::Input;
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
