//! The two number types that the formulas are evaluated in.

use crate::exp;
use std::ops::{Add, Div, Mul, MulAssign, Neg, Sub};

/// A floating-point type that activations are evaluated in: `f32`, or `f64` for `f64` tensors.
///
/// Half types are no `Real`: they are widened to `f32`, evaluated, and rounded once.
/// No function comes from the platform, so that results do not depend on the operating system.
pub trait Real:
    Copy
    + Send
    + Sync
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + MulAssign
    + Neg<Output = Self>
    + 'static
{
    /// Beyond `±SATURATED` every activation equals its limit in this type: `exp(-SATURATED)` is 0.
    const SATURATED: Self;
    /// Positive infinity.
    const INFINITY: Self;
    /// The nearest value to a constant given in `f64`.
    fn of(constant: f64) -> Self;
    /// `e^self`.
    fn exp(self) -> Self;
    /// The complementary error function, `1 - erf(self)`, without the cancellation.
    fn erfc(self) -> Self;
    /// The absolute value.
    fn abs(self) -> Self;
    /// `self` limited to `[lo, hi]`; NaN stays NaN.
    fn clamp(self, lo: Self, hi: Self) -> Self;
}

macro_rules! real {
    ($t:ty, $saturated:expr, $exp:path, $erfc:path) => {
        impl Real for $t {
            const SATURATED: Self = $saturated;
            const INFINITY: Self = <$t>::INFINITY;
            #[inline(always)]
            fn of(constant: f64) -> Self {
                constant as $t
            }
            #[inline(always)]
            fn exp(self) -> Self {
                $exp(self)
            }
            #[inline(always)]
            fn erfc(self) -> Self {
                $erfc(self)
            }
            #[inline(always)]
            fn abs(self) -> Self {
                <$t>::abs(self)
            }
            #[inline(always)]
            fn clamp(self, lo: Self, hi: Self) -> Self {
                <$t>::clamp(self, lo, hi)
            }
        }
    };
}

// exp(-104) is below half the least subnormal f32, exp(-746) below that of f64.
real!(f32, 128.0, exp_by_f64, libm::erfcf);
real!(f64, 800.0, libm::exp, libm::erfc);

/// `e^x` by way of f64: correct to 0.5001 ULP, and unlike a call to libm made for vectors.
#[inline(always)]
fn exp_by_f64(x: f32) -> f32 {
    exp::exp(f64::from(x)) as f32
}
