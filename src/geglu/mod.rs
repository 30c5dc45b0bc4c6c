//! The gated activation as candle operations, forward and backward.
//!
//! On the CPU each is one fused pass that widens to f32 (f64 stays f64), computes, and rounds
//! once. Other devices compose candle's own operations to the same end.

mod composed;
mod cpu;

use crate::activation::Activation;
use crate::operands::check_pair;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Tensor,
};

/// `activation(gate) ⊙ up`, element by element: GEGLU where the activation is GELU
/// (Shazeer 2020, <https://arxiv.org/abs/2002.05202>, equation 6).
///
/// `gate` and `up` have one shape (any rank, any strides, possibly no elements), one device and
/// one dtype out of f32, f64, bf16 and f16; so has the result. Half types are computed in f32 and
/// rounded once, where most frameworks round the activation and then the product.
///
/// The gradient is analytic: finite wherever the true one is, for any finite input.
///
/// # Errors
/// Shapes or dtypes that differ, an integer dtype.
pub fn geglu(gate: &Tensor, up: &Tensor, activation: impl Into<Activation>) -> Result<Tensor> {
    let activation = activation.into();
    check_pair(gate, up, "geglu")?;
    match gate.device() {
        Device::Cpu => gate.apply_op2(up, Geglu(activation)),
        _ => composed::geglu(gate, up, activation),
    }
}

/// `activation(x)`, element by element, under the same contract as [`geglu`].
///
/// # Errors
/// An integer dtype.
pub fn activate(x: &Tensor, activation: impl Into<Activation>) -> Result<Tensor> {
    let activation = activation.into();
    match x.device() {
        Device::Cpu => x.apply_op1(Activate(activation)),
        _ => composed::activate(x, activation),
    }
}

/// The gradient of `x`, given that of `activation(x)`.
pub(crate) fn activate_gradient(
    x: &Tensor,
    grad: &Tensor,
    activation: Activation,
) -> Result<Tensor> {
    x.apply_op2(grad, ActivateBackward(activation))
}

/// The gradients of `gate` and `up`, given that of the product.
pub(crate) fn geglu_gradients(
    gate: &Tensor,
    up: &Tensor,
    grad: &Tensor,
    activation: Activation,
) -> Result<(Tensor, Tensor)> {
    let both = gate.apply_op3(up, grad, GegluBackward(activation))?; // [2, ...]
    Ok((both.get(0)?, both.get(1)?))
}

struct Activate(Activation);

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((cpu::activate(self.0, (x, layout))?, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        activate_gradient(x, grad, self.0).map(Some)
    }
}

/// (x, grad) to grad·activation'(x).
struct ActivateBackward(Activation);

impl CustomOp2 for ActivateBackward {
    fn name(&self) -> &'static str {
        "activate-backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let dx = cpu::activate_backward(self.0, (x, x_layout), (grad, grad_layout))?;
        Ok((dx, x_layout.shape().clone()))
    }
}

struct Geglu(Activation);

impl CustomOp2 for Geglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let product = cpu::geglu(self.0, (gate, gate_layout), (up, up_layout))?;
        Ok((product, gate_layout.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _product: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (gate, up) = geglu_gradients(gate, up, grad, self.0)?;
        Ok((Some(gate), Some(up)))
    }
}

/// (gate, up, grad) to the gradients of gate and of up, stacked along a new first dimension, so
/// that one pass over the inputs makes both.
struct GegluBackward(Activation);

impl CustomOp3 for GegluBackward {
    fn name(&self) -> &'static str {
        "geglu-backward"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let both =
            cpu::geglu_backward(self.0, (gate, gate_layout), (up, up_layout), (grad, grad_layout))?;
        Ok((both, Shape::from([&[2], gate_layout.dims()].concat())))
    }
}

#[cfg(test)]
mod tests;
