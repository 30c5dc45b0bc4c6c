//! What a tensor's numbers are stored as: one by one, in blocks of quantised ones, or as codes with scales elsewhere.

use super::file::{File, PIECE};
use super::scaled::Codes;
use crate::error::Result;
use crate::kernels::linear::quantised::{bits, dequantise, is_kept};
use candle_core::DType;
use candle_core::quantized::GgmlDType;
use rayon::iter::IndexedParallelIterator;
use safetensors::Dtype;
use std::fmt;

/// What a tensor's numbers are stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Storage {
    /// Numbers one by one, little-endian.
    Numbers(Dtype),
    /// Blocks of quantised numbers that share scales, as ggml has them.
    Blocks(GgmlDType),
    /// Codes whose scales are tensors of their own, as safetensors files have them. They are dequantised when they are read.
    Codes(Codes),
}

impl Storage {
    /// What they are read as, if they are floats of 16 to 64 bits: quantised ones as f32, which holds what
    /// dequantisation makes of them.
    pub fn float(self) -> Option<DType> {
        match self {
            Self::Numbers(Dtype::F64) => Some(DType::F64),
            Self::Numbers(Dtype::F32) | Self::Blocks(_) | Self::Codes(_) => Some(DType::F32),
            Self::Numbers(Dtype::BF16) => Some(DType::BF16),
            Self::Numbers(Dtype::F16) => Some(DType::F16),
            Self::Numbers(_) => None,
        }
    }

    /// The type of the blocks, if a weight keeps them in memory, on the CPU. Of other types it is dequantised when it is
    /// read.
    pub fn kept(self) -> Option<GgmlDType> {
        match self {
            Self::Blocks(kind) if is_kept(kind) => Some(kind),
            _ => None,
        }
    }

    /// Bits that a weight takes in memory, as it is held on the CPU: up to 3 % more in blocks than in the file.
    pub fn bits(self) -> f64 {
        match self {
            Self::Numbers(dtype) => dtype.bitsize() as f64,
            Self::Blocks(kind) => bits(kind).unwrap_or(32.0),
            Self::Codes(_) => 32.0,
        }
    }

    /// Whether they are quantised.
    pub fn is_quantised(self) -> bool {
        matches!(self, Self::Blocks(_) | Self::Codes(_))
    }

    /// How many bytes so many numbers take, without scales elsewhere; `None` if they fill no whole bytes or blocks, or
    /// if these cannot be counted.
    pub(in crate::checkpoint) fn bytes(self, numbers: usize) -> Option<usize> {
        let of_bits = |bits: usize| {
            let bits = numbers.checked_mul(bits)?;
            bits.is_multiple_of(8).then_some(bits / 8)
        };
        match self {
            Self::Numbers(dtype) => of_bits(dtype.bitsize()),
            Self::Codes(codes) => of_bits(codes.bits()),
            Self::Blocks(kind) => {
                let blocks = numbers / kind.block_size();
                let whole = numbers.is_multiple_of(kind.block_size());
                blocks.checked_mul(kind.type_size()).filter(|_| whole)
            }
        }
    }

    /// How many numbers lie in so many bytes.
    pub(super) fn numbers(self, bytes: usize) -> usize {
        match self {
            Self::Numbers(dtype) => (bytes as u64 * 8 / dtype.bitsize() as u64) as usize,
            Self::Codes(codes) => (bytes as u64 * 8 / codes.bits() as u64) as usize,
            Self::Blocks(kind) => bytes / kind.type_size() * kind.block_size(),
        }
    }
}

/// As the formats call it: `BF16`, `Q4_K`, `INT4`.
impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Numbers(dtype) => write!(f, "{dtype:?}"),
            Self::Codes(codes) => write!(f, "{codes}"),
            Self::Blocks(kind) => match format!("{kind:?}").split_once('K') {
                // candle leaves the line out.
                Some((bits, "")) => write!(f, "{bits}_K"),
                _ => write!(f, "{kind:?}"),
            },
        }
    }
}

/// Reads so many blocks from a byte on with all threads, some at a time: `work` gets their numbers, and the
/// item that stands in their place. Of [`blocks_at_a_time`] blocks each, but for the last.
pub(super) fn read_dequantised<I: Send>(
    file: &File,
    at: u64,
    blocks: usize,
    kind: GgmlDType,
    items: impl IndexedParallelIterator<Item = I>,
    work: impl Fn(&[f32], I) + Sync + Send,
) -> Result<()> {
    let size = kind.type_size();
    file.read(at, blocks * size, blocks_at_a_time(kind) * size, items, |bytes, item| {
        work(&dequantise(bytes, kind)?, item);
        Ok(())
    })
}

/// How many blocks are read at a time.
pub(super) fn blocks_at_a_time(kind: GgmlDType) -> usize {
    PIECE / kind.type_size()
}
