//! Activations' numbers to f32 and back.

use crate::kernels::exp::vectorized;
use candle_core::WithDType;
use half::{bf16, f16, slice::HalfFloatSliceExt};

/// A type of activations: sums are f32 whatever it is.
pub trait Number: WithDType {
    /// Writes every number as f32, which is exact.
    fn to_f32s(from: &[Self], to: &mut [f32]);
    /// Writes every number rounded to nearest, ties to even.
    fn from_f32s(from: &[f32], to: &mut [Self]);

    /// Writes every number as bf16, rounded to nearest, ties to even.
    fn to_bf16s(from: &[Self], to: &mut [bf16]) {
        const AT_ONCE: usize = 64;
        let mut wide = [0f32; AT_ONCE];
        for (from, to) in from.chunks(AT_ONCE).zip(to.chunks_mut(AT_ONCE)) {
            let wide = &mut wide[..from.len()];
            Self::to_f32s(from, wide);
            bf16::from_f32s(wide, to);
        }
    }
}

impl Number for f32 {
    #[inline]
    fn to_f32s(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    #[inline]
    fn from_f32s(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Number for bf16 {
    fn to_f32s(from: &[bf16], to: &mut [f32]) {
        vectorized(
            #[inline(always)]
            || {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = f32::from_bits(u32::from(from.to_bits()) << 16);
                }
            },
        );
    }

    fn from_f32s(from: &[f32], to: &mut [bf16]) {
        vectorized(
            #[inline(always)]
            || {
                for (to, &from) in to.iter_mut().zip(from) {
                    *to = nearest_bf16(from);
                }
            },
        );
    }

    fn to_bf16s(from: &[bf16], to: &mut [bf16]) {
        to.copy_from_slice(from);
    }
}

impl Number for f16 {
    fn to_f32s(from: &[f16], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }

    fn from_f32s(from: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(from);
    }
}

/// To nearest, ties to even. Unlike `half`'s it is made for vectors.
#[inline(always)]
pub fn nearest_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    bf16::from_bits(if x.is_nan() { (bits >> 16 | 0x40) as u16 } else { rounded as u16 })
}
