//! Half-precision types as the emulated arithmetics need them: 16 bits in, 16 bits out, f32 in between.

use crate::kernels::operands::slice;
use candle_core::{CpuStorage, DType, Layout, Result};
use half::slice::HalfFloatSliceExt;
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};

/// bf16 or f16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HalfType {
    Bf16,
    F16,
}

impl HalfType {
    /// That of a tensor, if it is either.
    pub(super) fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::BF16 => Some(Self::Bf16),
            DType::F16 => Some(Self::F16),
            _ => None,
        }
    }

    /// The number with these bits.
    pub(super) fn widen(self, bits: u16) -> f32 {
        match self {
            Self::Bf16 => bf16::from_bits(bits).to_f32(),
            Self::F16 => f16::from_bits(bits).to_f32(),
        }
    }

    /// The bits of the nearest number, to even if two are.
    pub(super) fn bits(self, x: f32) -> u16 {
        match self {
            Self::Bf16 => bf16::from_f32(x).to_bits(),
            Self::F16 => f16::from_f32(x).to_bits(),
        }
    }

    /// The nearest number of the type.
    pub(super) fn round(self, x: f32) -> f32 {
        self.widen(self.bits(x))
    }

    /// The bits of a contiguous tensor of this type.
    pub(super) fn slice<'a>(self, storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [u16]> {
        Ok(match self {
            Self::Bf16 => slice::<bf16>(storage, layout)?.reinterpret_cast(),
            Self::F16 => slice::<f16>(storage, layout)?.reinterpret_cast(),
        })
    }

    /// Bits as a tensor's storage.
    pub(super) fn storage(self, bits: Vec<u16>) -> CpuStorage {
        match self {
            Self::Bf16 => CpuStorage::BF16(bits.reinterpret_into()),
            Self::F16 => CpuStorage::F16(bits.reinterpret_into()),
        }
    }
}
