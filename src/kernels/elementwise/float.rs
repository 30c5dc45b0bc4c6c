//! The number types that activations come in, and how each is evaluated and rounded.

use super::activation::Activation;
use super::pointwise::{Pointwise, Wide, map, multiply};
use crate::kernels::gelu::{Double, Single};
use crate::kernels::linear::nearest_bf16;
use half::{bf16, f16, slice::HalfFloatSliceExt};
use std::sync::OnceLock;

/// How many numbers are widened, evaluated and rounded at a time: a few buffers of them stay in
/// the first-level cache.
pub const BLOCK: usize = 1024;

/// Of half types fewer, since what they are widened into is zeroed first, at every call.
const HALVES: usize = 256;

/// A floating-point type that activations are taken of: `f32`, `f64`, `bf16` or `f16`.
///
/// GELU in both forms is correctly rounded in bf16 and f16, within 1 ULP in f32 and within 4 in f64;
/// `docs/numerics.md` has what was measured. No function comes from the platform, and the bits are
/// the same on every processor.
pub trait Float: Copy + Send + Sync + 'static + sealed::Sealed {
    /// What is computed in before rounding: f64 for half types, otherwise the type itself.
    type Wide: Wide;
    /// Writes the function of every x, rounded to nearest.
    #[doc(hidden)]
    fn evaluate(function: Pointwise, x: &[Self], y: &mut [Self]);
    /// Writes the function of every x as it is to be computed with.
    #[doc(hidden)]
    fn evaluate_wide(function: Pointwise, x: &[Self], y: &mut [Self::Wide]);
    /// Writes the function of every x times its counterpart, rounded once.
    #[doc(hidden)]
    fn gated(function: Pointwise, x: &[Self], by: &[Self], y: &mut [Self]);
    /// Writes every number as a wide one, exactly.
    #[doc(hidden)]
    fn widen(from: &[Self], to: &mut [Self::Wide]);
    /// Writes every number rounded to nearest, ties to even.
    #[doc(hidden)]
    fn narrow(from: &[Self::Wide], to: &mut [Self]);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
    impl Sealed for half::bf16 {}
    impl Sealed for half::f16 {}
}

impl Activation {
    /// Writes the activation of every `x` to `y`, which must be as long. Every element depends on
    /// its own argument only.
    pub fn values<T: Float>(self, x: &[T], y: &mut [T]) {
        T::evaluate(Pointwise { activation: self, derivative: false }, x, y);
    }

    /// Writes the derivative at every `x` to `dy`, which must be as long; as exact as the values,
    /// but near its own zero, where its absolute error stays below 2^-28 in f32.
    pub fn derivatives<T: Float>(self, x: &[T], dy: &mut [T]) {
        T::evaluate(Pointwise { activation: self, derivative: true }, x, dy);
    }
}

macro_rules! computed {
    ($t:ty, $precision:ty) => {
        impl Float for $t {
            type Wide = $t;

            fn evaluate(function: Pointwise, x: &[$t], y: &mut [$t]) {
                function.evaluate::<$t, $precision>(x, y);
            }

            fn evaluate_wide(function: Pointwise, x: &[$t], y: &mut [$t]) {
                function.evaluate::<$t, $precision>(x, y);
            }

            fn gated(function: Pointwise, x: &[$t], by: &[$t], y: &mut [$t]) {
                Self::evaluate(function, x, y);
                multiply(y, by);
            }

            fn widen(from: &[$t], to: &mut [$t]) {
                to.copy_from_slice(from);
            }

            fn narrow(from: &[$t], to: &mut [$t]) {
                to.copy_from_slice(from);
            }
        }
    };
}

computed!(f32, Single);
computed!(f64, Double);

/// A function of a half type is a table of 65,536 entries, made when it is first asked for: what it
/// costs does not depend on the function then, and what it is good for was computed in f64.
struct Table<T> {
    /// The function of all numbers by their bits, rounded to the type.
    rounded: Vec<T>,
    /// The same before rounding.
    wide: Vec<f64>,
}

/// Tables of a half type: of each activation its values and its derivatives.
type Tables<T> = [OnceLock<Table<T>>; 2 * Activation::COUNT];

trait Half: Float<Wide = f64> + Default {
    fn tables() -> &'static Tables<Self>;
    fn from_bits(bits: u16) -> Self;

    fn table(function: Pointwise) -> &'static Table<Self> {
        let index = 2 * function.activation.index() + usize::from(function.derivative);
        Self::tables()[index].get_or_init(|| {
            let all: Vec<Self> = (0..=u16::MAX).map(Self::from_bits).collect();
            let (mut x, mut wide) = (vec![0.0; all.len()], vec![0.0; all.len()]);
            Self::widen(&all, &mut x);
            function.evaluate::<f64, Single>(&x, &mut wide);
            let mut rounded = all;
            Self::narrow(&wide, &mut rounded);
            Table { rounded, wide }
        })
    }
}

macro_rules! looked_up {
    ($t:ty, $widen:expr, $narrow:expr) => {
        impl Float for $t {
            type Wide = f64;

            fn evaluate(function: Pointwise, x: &[$t], y: &mut [$t]) {
                look_up(&<$t>::table(function).rounded, x, y, |x| x.to_bits());
            }

            fn evaluate_wide(function: Pointwise, x: &[$t], y: &mut [f64]) {
                look_up(&<$t>::table(function).wide, x, y, |x| x.to_bits());
            }

            fn gated(function: Pointwise, x: &[$t], by: &[$t], y: &mut [$t]) {
                let [mut product, mut factor] = [[0f64; HALVES]; 2];
                let pieces = x.chunks(HALVES).zip(by.chunks(HALVES)).zip(y.chunks_mut(HALVES));
                for ((x, by), y) in pieces {
                    let (product, factor) = (&mut product[..x.len()], &mut factor[..x.len()]);
                    Self::evaluate_wide(function, x, product);
                    Self::widen(by, factor);
                    multiply(product, factor);
                    Self::narrow(product, y);
                }
            }

            fn widen(from: &[$t], to: &mut [f64]) {
                let widen: fn(&[$t], &mut [f64]) = $widen;
                widen(from, to);
            }

            fn narrow(from: &[f64], to: &mut [$t]) {
                let narrow: fn(&[f32], &mut [$t]) = $narrow;
                let mut single = [0f32; HALVES];
                for (from, to) in from.chunks(HALVES).zip(to.chunks_mut(HALVES)) {
                    let single = &mut single[..from.len()];
                    map(from, single, to_odd);
                    narrow(single, to);
                }
            }
        }

        impl Half for $t {
            fn tables() -> &'static Tables<$t> {
                static ALL: Tables<$t> = [const { OnceLock::new() }; 2 * Activation::COUNT];
                &ALL
            }

            fn from_bits(bits: u16) -> $t {
                <$t>::from_bits(bits)
            }
        }
    };
}

looked_up!(bf16, |from, to| map(from, to, widen_bf16), |from, to| map(from, to, nearest_bf16));
looked_up!(
    f16,
    |from, to| {
        for (from, to) in from.chunks(BLOCK).zip(to.chunks_mut(BLOCK)) {
            let mut single = buffer::<f32>();
            let single = &mut single[..from.len()];
            from.convert_to_f32_slice(single);
            map(single, to, f64::from);
        }
    },
    |from, to| to.convert_from_f32_slice(from)
);

/// Writes every x's entry.
fn look_up<T: Copy, Y: Copy>(table: &[Y], x: &[T], y: &mut [Y], bits: impl Fn(T) -> u16) {
    assert_eq!(x.len(), y.len(), "slices of one length");
    for (y, &x) in y.iter_mut().zip(x) {
        *y = table[usize::from(bits(x))];
    }
}

/// A buffer of zeros.
pub fn buffer<T: Default + Copy>() -> [T; BLOCK] {
    [T::default(); BLOCK]
}

/// Exact, and made for vectors, which `half`'s is not.
#[inline(always)]
pub fn widen_bf16(x: bf16) -> f64 {
    f64::from(f32::from_bits(u32::from(x.to_bits()) << 16))
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn halves_survive_widening_and_rounding() {
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
