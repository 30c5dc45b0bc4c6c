//! The number types that activations come in, and how each is evaluated and rounded.

use crate::exp::vectorized;
use crate::gelu::{Double, Precision, Single, exact, exact_f32};
use half::{bf16, f16, slice::HalfFloatSliceExt};
use std::ops::{Mul, MulAssign};

/// How many numbers are widened, evaluated and rounded at a time: a few buffers of them stay in
/// the first-level cache.
pub(crate) const BLOCK: usize = 256;

/// A floating-point type that activations are taken of: `f32`, `f64`, `bf16` or `f16`.
///
/// `f32` is evaluated in f64 or in pairs of f32 and rounded to f32; half types are evaluated in f64
/// and rounded once, to nearest with ties to even, subnormals included. No function comes from the
/// platform, and the bits are the same on every processor.
pub trait Float: Copy + Send + Sync + 'static + sealed::Sealed {
    /// What it is computed in.
    type Wide: Wide;
    /// How finely.
    type Precision: Precision;
    /// Every number as a wide one, exactly. The slices are of one length.
    fn widen(from: &[Self], to: &mut [Self::Wide]);
    /// Every number rounded to nearest. The slices are of one length.
    fn round(from: &[Self::Wide], to: &mut [Self]);
}

/// A type that is computed in: `f32` or `f64`.
pub trait Wide: Copy + Default + Send + Sync + Mul<Output = Self> + MulAssign + 'static {
    /// Writes `f` of every x, rounded to this type.
    fn map(x: &[Self], y: &mut [Self], f: impl Fn(f64) -> f64);
    /// Writes `x·Φ(x)` of every x.
    fn exact<P: Precision>(x: &[Self], y: &mut [Self]);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
}

/// A buffer of zeros.
pub(crate) fn buffer<T: Default + Copy>() -> [T; BLOCK] {
    [T::default(); BLOCK]
}

/// `f` of every pair, with the widest vectors there are.
#[inline(always)]
fn map<A: Copy, B>(x: &[A], y: &mut [B], f: impl Fn(A) -> B) {
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

impl Wide for f32 {
    #[inline(always)]
    fn map(x: &[f32], y: &mut [f32], f: impl Fn(f64) -> f64) {
        map(
            x,
            y,
            #[inline(always)]
            |x| f(f64::from(x)) as f32,
        );
    }

    fn exact<P: Precision>(x: &[f32], y: &mut [f32]) {
        exact_f32::values(x, y);
    }
}

impl Wide for f64 {
    #[inline(always)]
    fn map(x: &[f64], y: &mut [f64], f: impl Fn(f64) -> f64) {
        map(x, y, f);
    }

    fn exact<P: Precision>(x: &[f64], y: &mut [f64]) {
        map(x, y, exact::value::<P>);
    }
}

impl Float for f32 {
    type Wide = f32;
    type Precision = Single;

    fn widen(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }

    fn round(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

impl Float for f64 {
    type Wide = f64;
    type Precision = Double;

    fn widen(from: &[f64], to: &mut [f64]) {
        to.copy_from_slice(from);
    }

    fn round(from: &[f64], to: &mut [f64]) {
        to.copy_from_slice(from);
    }
}

impl Float for bf16 {
    type Wide = f64;
    type Precision = Single;

    fn widen(from: &[bf16], to: &mut [f64]) {
        map(
            from,
            to,
            #[inline(always)]
            |x| f64::from(f32::from_bits(u32::from(x.to_bits()) << 16)),
        );
    }

    fn round(from: &[f64], to: &mut [bf16]) {
        map(
            from,
            to,
            #[inline(always)]
            |x| nearest_bf16(to_odd(x)),
        );
    }
}

impl Float for f16 {
    type Wide = f64;
    type Precision = Single;

    fn widen(from: &[f16], to: &mut [f64]) {
        for (from, to) in from.chunks(BLOCK).zip(to.chunks_mut(BLOCK)) {
            let mut single = buffer::<f32>();
            let single = &mut single[..from.len()];
            from.convert_to_f32_slice(single);
            map(single, to, f64::from);
        }
    }

    fn round(from: &[f64], to: &mut [f16]) {
        for (from, to) in from.chunks(BLOCK).zip(to.chunks_mut(BLOCK)) {
            let mut single = buffer::<f32>();
            let single = &mut single[..from.len()];
            map(from, single, to_odd);
            to.convert_from_f32_slice(single);
        }
    }
}

/// To f32, and where that is inexact to the neighbour whose last bit is set. Rounding to a half
/// type afterwards then gives what rounding at once would give (Boldo and Melquiond 2005), where
/// rounding to nearest twice does not.
#[inline(always)]
fn to_odd(x: f64) -> f32 {
    let near = x as f32;
    let back = f64::from(near);
    let bits = near.to_bits() - u32::from(back.abs() > x.abs()); // toward zero
    f32::from_bits(if back == x { bits } else { bits | 1 })
}

/// To nearest, ties to even. Unlike `half`'s it is made for vectors.
#[inline(always)]
fn nearest_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    bf16::from_bits(if x.is_nan() { (bits >> 16 | 0x40) as u16 } else { rounded as u16 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn halves_survive_widening_and_rounding() {
        fn check<T: Float<Wide = f64>>(all: Vec<T>, bits: impl Fn(T) -> u16, nan: impl Fn(T) -> bool) {
            let mut wide = vec![0.0; all.len()];
            T::widen(&all, &mut wide);
            let mut back = all.clone();
            T::round(&wide, &mut back);
            for (a, b) in all.into_iter().zip(back) {
                assert!(bits(a) == bits(b) || (nan(a) && nan(b)), "{:x} {:x}", bits(a), bits(b));
            }
        }
        check((0..=u16::MAX).map(bf16::from_bits).collect(), bf16::to_bits, bf16::is_nan);
        check((0..=u16::MAX).map(f16::from_bits).collect(), f16::to_bits, f16::is_nan);
    }

    proptest! {
        /// `half` rounds an f64 at once; so must we, on the way over f32, near ties above all.
        #[test]
        fn rounded_once(bits in any::<u16>(), nudge in -3i64..=3, fraction in prop_oneof![Just(0.5), 0.0..1.0]) {
            let between = |a: f64, b: f64| f64::from_bits(((a + (b - a) * fraction).to_bits() as i64 + nudge) as u64);
            let (a, b) = (f16::from_bits(bits & 0x7bfe), f16::from_bits((bits & 0x7bfe) + 1));
            let x = between(a.to_f64(), b.to_f64());
            let mut rounded = [f16::ZERO];
            f16::round(&[x], &mut rounded);
            prop_assert_eq!(rounded[0], f16::from_f64(x));
            let (a, b) = (bf16::from_bits(bits & 0x7f7e), bf16::from_bits((bits & 0x7f7e) + 1));
            let x = between(a.to_f64(), b.to_f64());
            let mut rounded = [bf16::ZERO];
            bf16::round(&[-x], &mut rounded);
            prop_assert_eq!(rounded[0], bf16::from_f64(-x));
        }
    }
}
