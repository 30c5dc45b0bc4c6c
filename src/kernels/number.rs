//! The types of numbers: f32, f64, bf16 and f16, and how one becomes another.

use crate::kernels::exp::vectorized;
use candle_core::{DType, WithDType};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use pulp::bytemuck::Pod;

/// A floating-point type that is computed with: `f32`, `f64`, `bf16` or `f16`.
///
/// GELU in both forms is correctly rounded in bf16 and f16, within 1 ULP in f32 and within 4 in f64;
/// `docs/numerics.md` has what was measured. No function comes from the platform, and the bits are
/// the same on every processor.
///
/// No other type can implement it.
pub trait Float: WithDType + Pod + sealed::Sealed {
    /// What activations are computed in before rounding: f64 for half-precision types, otherwise the
    /// type itself.
    type Wide: Float;

    /// Writes every number as a wide one, exactly.
    #[doc(hidden)]
    fn widen(from: &[Self], to: &mut [Self::Wide]);
    /// Writes every number rounded to nearest, ties to even.
    #[doc(hidden)]
    fn narrow(from: &[Self::Wide], to: &mut [Self]);

    /// Writes every number as f32: exactly, but f64, which is rounded to nearest.
    #[doc(hidden)]
    fn to_f32s(from: &[Self], to: &mut [f32]);
    /// Writes every f32 rounded to nearest, ties to even.
    #[doc(hidden)]
    fn from_f32s(from: &[f32], to: &mut [Self]);
    /// Writes every number by way of f32 as bf16, rounded to nearest, ties to even.
    #[doc(hidden)]
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

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
}

/// What is computed in its own type.
macro_rules! as_it_is {
    ($t:ident) => {
        type Wide = $t;

        fn widen(from: &[$t], to: &mut [$t]) {
            to.copy_from_slice(from);
        }

        fn narrow(from: &[$t], to: &mut [$t]) {
            to.copy_from_slice(from);
        }
    };
}

impl Float for f32 {
    as_it_is!(f32);

    #[inline]
    fn to_f32s(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    #[inline]
    fn from_f32s(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Float for f64 {
    as_it_is!(f64);

    fn to_f32s(from: &[f64], to: &mut [f32]) {
        map(
            from,
            to,
            #[inline(always)]
            |x| x as f32,
        );
    }

    fn from_f32s(from: &[f32], to: &mut [f64]) {
        map(from, to, f64::from);
    }
}

/// What is computed in f64.
macro_rules! in_f64 {
    ($t:ident) => {
        type Wide = f64;

        fn narrow(from: &[f64], to: &mut [$t]) {
            let mut single = [0f32; SMALL_BUFFER];
            for (from, to) in from.chunks(SMALL_BUFFER).zip(to.chunks_mut(SMALL_BUFFER)) {
                let single = &mut single[..from.len()];
                map(from, single, to_odd);
                Self::from_f32s(single, to);
            }
        }
    };
}

impl Float for bf16 {
    in_f64!(bf16);

    fn widen(from: &[bf16], to: &mut [f64]) {
        map(from, to, widen_bf16);
    }

    fn to_f32s(from: &[bf16], to: &mut [f32]) {
        map(
            from,
            to,
            #[inline(always)]
            |x| f32::from_bits(u32::from(x.to_bits()) << 16),
        );
    }

    fn from_f32s(from: &[f32], to: &mut [bf16]) {
        map(from, to, nearest_bf16);
    }

    fn to_bf16s(from: &[bf16], to: &mut [bf16]) {
        to.copy_from_slice(from);
    }
}

impl Float for f16 {
    in_f64!(f16);

    fn widen(from: &[f16], to: &mut [f64]) {
        for (from, to) in from.chunks(BUFFER).zip(to.chunks_mut(BUFFER)) {
            let mut single = buffer::<f32>();
            let single = &mut single[..from.len()];
            from.convert_to_f32_slice(single);
            map(single, to, f64::from);
        }
    }

    fn to_f32s(from: &[f16], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }

    fn from_f32s(from: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(from);
    }
}

/// How many numbers are widened, evaluated and rounded at a time: a few buffers of them stay in
/// the first-level cache.
pub const BUFFER: usize = 1024;

/// Of half-precision types fewer, since what they are widened into is zeroed first, at every call.
pub const SMALL_BUFFER: usize = 256;

/// A buffer of zeros.
pub fn buffer<T: Float>() -> [T; BUFFER] {
    [T::zero(); BUFFER]
}

/// A small buffer of zeros.
pub fn small_buffer<T: Float>() -> [T; SMALL_BUFFER] {
    [T::zero(); SMALL_BUFFER]
}

/// `f` of every number, with the widest vectors there are; `f` itself must be inlined.
///
/// # Panics
/// If the slices differ in length.
#[inline(always)]
pub fn map<A: Copy, B>(x: &[A], y: &mut [B], f: impl Fn(A) -> B) {
    assert_eq!(x.len(), y.len(), "slices of one length");
    vectorized(
        #[inline(always)]
        || {
            for (y, &x) in y.iter_mut().zip(x) {
                *y = f(x);
            }
        },
    );
}

/// Multiplies every product by its counterpart.
pub fn multiply<T: Float>(products: &mut [T], by: &[T]) {
    vectorized(
        #[inline(always)]
        || products.iter_mut().zip(by).for_each(|(product, &by)| *product *= by),
    );
}

/// Exact, and made for vectors, which `half`'s is not.
#[inline(always)]
pub fn widen_bf16(x: bf16) -> f64 {
    f64::from(f32::from_bits(u32::from(x.to_bits()) << 16))
}

/// To nearest, ties to even. Unlike `half`'s it is made for vectors.
#[inline(always)]
pub fn nearest_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    bf16::from_bits(if x.is_nan() { (bits >> 16 | 0x40) as u16 } else { rounded as u16 })
}

/// To f32, and where that is inexact to the neighbour whose last bit is set. Rounding to a
/// half-precision type afterwards then gives what rounding at once would give (Boldo and Melquiond
/// 2005), where rounding to nearest twice does not.
#[inline(always)]
fn to_odd(x: f64) -> f32 {
    let near = x as f32;
    let back = f64::from(near);
    let bits = near.to_bits() - u32::from(back.abs() > x.abs()); // toward zero
    f32::from_bits(if back == x { bits } else { bits | 1 })
}

/// Whether layers take numbers of this type.
pub(crate) fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F64 | DType::F32 | DType::BF16 | DType::F16)
}

/// f64 stays, everything else is computed in f32.
pub fn wide_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn half_precision_survives_widening_and_rounding() {
        fn check<T: Float<Wide = f64>>(
            all: Vec<T>,
            bits: impl Fn(T) -> u16,
            nan: impl Fn(T) -> bool,
        ) {
            let mut wide = vec![0.0; all.len()];
            T::widen(&all, &mut wide);
            let mut back = all.clone();
            T::narrow(&wide, &mut back);
            for (a, b) in all.into_iter().zip(back) {
                assert!(bits(a) == bits(b) || (nan(a) && nan(b)), "{:x} {:x}", bits(a), bits(b));
            }
        }
        check((0..=u16::MAX).map(bf16::from_bits).collect(), bf16::to_bits, bf16::is_nan);
        check((0..=u16::MAX).map(f16::from_bits).collect(), f16::to_bits, f16::is_nan);
    }

    proptest! {
        /// Between two neighbours, near the middle above all, the nearer one wins, and the even one
        /// at the middle itself. Rounding to f32 on the way must not move what lies beside it there.
        #[test]
        fn rounded_once(bits in any::<u16>(), nudge in -3i64..=3, fraction in prop_oneof![Just(0.5), 0.0..1.0]) {
            fn check<T: Float<Wide = f64> + PartialEq + std::fmt::Debug>(even: T, odd: T, nudge: i64, fraction: f64) -> Result<(), TestCaseError> {
                let mut ends = [0.0; 2];
                T::widen(&[even, odd], &mut ends);
                let x = ends[0] + (ends[1] - ends[0]) * fraction;
                let x = f64::from_bits((x.to_bits() as i64 + nudge).max(0) as u64);
                let nearer = if (x - ends[0]).abs() <= (x - ends[1]).abs() { even } else { odd };
                let mut rounded = [odd];
                T::narrow(&[x], &mut rounded);
                prop_assert_eq!(rounded[0], nearer);
                Ok(())
            }
            let even = bits & 0x7bfe;
            check(f16::from_bits(even), f16::from_bits(even + 1), nudge, fraction)?;
            let even = bits & 0x7f7e;
            check(bf16::from_bits(even), bf16::from_bits(even + 1), nudge, fraction)?;
        }
    }
}
