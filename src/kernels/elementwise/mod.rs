//! Activations of slices of numbers: [`Activation::values`] and [`Activation::derivatives`].
//!
//! `activation` has the names, `pointwise` which formula each stands for, `float` how each number type
//! is evaluated and rounded. The formulas of GELU are in `kernels::gelu`.

mod activation;
mod float;
mod pointwise;

pub use activation::Activation;
pub use activation::QUICK;
pub use float::Float;
pub use float::{BLOCK, buffer, widen_bf16};
pub use pointwise::{Pointwise, multiply};
