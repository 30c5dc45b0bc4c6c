//! `x·σ(z(x))`, the shape that tanh-GELU and SiLU share, σ being the logistic function.

use super::Real;

/// `x·σ(z)` at an `x` whose `z` is given.
#[inline(always)]
pub(crate) fn value<T: Real>(x: T, z: T) -> T {
    x.clamp(-T::SATURATED, T::INFINITY) * sigmoid(z).0
}

/// `x·σ(z)` and its derivative `σ + x·σ·(1-σ)·z'`; `x` is the argument limited to
/// `±SATURATED`, beyond which the second term is 0 and its factors might overflow.
#[inline(always)]
pub(crate) fn value_and_derivative<T: Real>(x: T, z: T, dz: T) -> (T, T) {
    let (s, s_times_one_minus_s) = sigmoid(z);
    let inner = x.clamp(-T::SATURATED, T::SATURATED);
    let value = x.clamp(-T::SATURATED, T::INFINITY) * s;
    (value, s + inner * s_times_one_minus_s * dz)
}

/// σ(z) and σ(z)·(1-σ(z)), both from `exp(-|z|)`, which neither overflows nor cancels.
#[inline(always)]
fn sigmoid<T: Real>(z: T) -> (T, T) {
    let one = T::of(1.0);
    let e = (-z.abs()).exp();
    let upper = one / (one + e);
    let s = if z < T::of(0.0) { e * upper } else { upper };
    (s, e * upper * upper)
}
