//! The gated activation as candle operations, forward and backward.
//!
//! On the CPU each is one pass over its operands that widens (half-precision types to f64), computes,
//! and rounds once; so it is on CUDA, for GELU of f32, bf16 and f16. Elsewhere candle's own operations
//! are composed to the same end.

mod composed;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod custom_op;
mod op;

use crate::kernels::activation::Activation;
use crate::kernels::gelu::Gelu;
use crate::kernels::operands::check_pair;
use candle_core::{Device, Result, Tensor};
use op::Op;

pub use custom_op::{activate_gradient, geglu_gradients};

/// `activation(gate) ⊙ up`, element by element: GEGLU where the activation is GELU
/// (Shazeer 2020, <https://arxiv.org/abs/2002.05202>, equation 6).
///
/// `gate` and `up` have one shape (any rank, any strides, possibly no elements), one device and
/// one dtype out of f32, f64, bf16 and f16; so has the result. Half-precision types are widened and
/// rounded once, where most frameworks round the activation and then the product.
///
/// The gradient is analytic: finite wherever the true one is, for any finite input.
///
/// # Errors
/// Shapes or dtypes that differ, an integer dtype.
pub fn geglu(gate: &Tensor, up: &Tensor, activation: impl Into<Activation>) -> Result<Tensor> {
    let activation = activation.into();
    check_pair(gate, up, "geglu")?;
    if has_kernel(gate, activation) {
        Op::Geglu(activation).apply([gate, up])
    } else {
        composed::geglu(gate, up, activation)
    }
}

/// [`geglu`] under the exact and the tanh form of GELU, stacked in this order, from one read of `gate`
/// and `up`: `[2, ...]`, each with the bits that it has alone.
pub fn geglu_pair(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    check_pair(gate, up, "geglu")?;
    if has_kernel(gate, Activation::EXACT) {
        Op::GegluPair.apply([gate, up])
    } else {
        let products = Gelu::ALL.iter().map(|&gelu| composed::geglu(gate, up, gelu.into()));
        Tensor::stack(&products.collect::<Result<Vec<_>>>()?, 0)
    }
}

/// [`activate`] of `gate` and [`geglu`] of both, with the bits that each has alone, from one evaluation
/// of the activation where there is a kernel for both.
pub fn activated_and_product(
    gate: &Tensor,
    up: &Tensor,
    activation: Activation,
) -> Result<(Tensor, Tensor)> {
    if !gate.device().is_cpu() {
        return Ok((activate(gate, activation)?, geglu(gate, up, activation)?));
    }
    check_pair(gate, up, "geglu")?;
    let both = Op::ActivatedAndProduct(activation).apply([gate, up])?; // [2, ...]
    Ok((both.get(0)?, both.get(1)?))
}

/// Whether there is a kernel of ours, one pass over all operands, for a tensor where it is.
fn has_kernel(x: &Tensor, activation: Activation) -> bool {
    match (x.device(), activation) {
        (Device::Cpu, _) => true,
        #[cfg(feature = "cuda")]
        (Device::Cuda(device), Activation::Gelu(_)) => cuda::takes(device, x.dtype()),
        _ => false,
    }
}

/// `activation(x)`, element by element, in the shape and dtype of `x`: f32, f64, bf16 or f16.
/// Computed, rounded and differentiated as [`geglu`] is.
///
/// # Errors
/// An integer dtype.
pub fn activate(x: &Tensor, activation: impl Into<Activation>) -> Result<Tensor> {
    let activation = activation.into();
    if has_kernel(x, activation) {
        Op::Activate(activation).apply([x])
    } else {
        composed::activate(x, activation)
    }
}

#[cfg(test)]
mod tests;
