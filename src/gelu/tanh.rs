//! The tanh approximation, `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
//!
//! Hendrycks & Gimpel 2016, <https://arxiv.org/abs/1606.08415>, section 2. PyTorch's
//! `F.gelu(x, approximate="tanh")`, JAX's `jax.nn.gelu(x)`, whose default it is.
//! Since `(1 + tanh u)/2 = σ(2u)`, it is evaluated as `x·σ(2u)`: the same function, but without
//! the cancellation of `1 + tanh u` on the left.

use super::{Real, logistic};

/// `2·sqrt(2/π)`.
const TWO_SQRT_2_OVER_PI: f64 = 1.595_769_121_605_730_7;
/// The coefficient of x³, as Hendrycks & Gimpel fitted it.
const CUBIC: f64 = 0.044715;

/// `2u` for an `x` within the saturated range.
#[inline(always)]
fn twice_u<T: Real>(x: T) -> T {
    T::of(TWO_SQRT_2_OVER_PI) * x * (T::of(1.0) + T::of(CUBIC) * x * x)
}

/// The tanh form of GELU.
#[inline(always)]
pub fn value<T: Real>(x: T) -> T {
    let inner = x.clamp(-T::SATURATED, T::SATURATED);
    logistic::value(x, twice_u(inner))
}

/// The tanh form of GELU and its derivative.
#[inline(always)]
pub fn value_and_derivative<T: Real>(x: T) -> (T, T) {
    let inner = x.clamp(-T::SATURATED, T::SATURATED);
    let dz = T::of(TWO_SQRT_2_OVER_PI) * (T::of(1.0) + T::of(3.0 * CUBIC) * inner * inner);
    logistic::value_and_derivative(x, twice_u(inner), dz)
}
