//! The gated activation as candle operations, forward and backward.
//!
//! On the CPU each is one fused pass that widens to f32 (f64 stays f64), computes, and rounds
//! once; so it is on CUDA, for GELU of f32, bf16 and f16. Elsewhere candle's own operations are
//! composed to the same end.

mod composed;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;

use crate::kernels::elementwise::Activation;
use crate::kernels::gelu::Gelu;
use crate::kernels::operands::check_pair;
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
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
    if is_fused(gate, activation) {
        laid_out(gate)?.apply_op2(&laid_out(up)?, Geglu(activation))
    } else {
        composed::geglu(gate, up, activation)
    }
}

/// Both forms of GELU from one read of `gate` and `up`: `[2, ...]`, the exact one first. Each has the bits
/// that [`geglu`] returns.
pub fn geglu_pair(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    check_pair(gate, up, "geglu")?;
    if is_fused(gate, Activation::EXACT) {
        laid_out(gate)?.apply_op2(&laid_out(up)?, GegluPair)
    } else {
        let [exact, tanh] = Gelu::ALL.map(|gelu| composed::geglu(gate, up, gelu.into()));
        Tensor::stack(&[exact?, tanh?], 0)
    }
}

/// `activation(gate)`, with the bits of [`activate`], and [`geglu`], with its bits, from one evaluation
/// where there is a pass for both.
pub fn activated_and_product(
    gate: &Tensor,
    up: &Tensor,
    activation: Activation,
) -> Result<(Tensor, Tensor)> {
    if !gate.device().is_cpu() {
        return Ok((activate(gate, activation)?, geglu(gate, up, activation)?));
    }
    check_pair(gate, up, "geglu")?;
    let both = gate.apply_op2(up, ActivatedAndProduct(activation))?; // [2, ...]
    Ok((both.get(0)?, both.get(1)?))
}

/// Whether there is a fused pass for a tensor where it is.
fn is_fused(x: &Tensor, activation: Activation) -> bool {
    match (x.device(), activation) {
        (Device::Cpu, _) => true,
        #[cfg(feature = "cuda")]
        (Device::Cuda(device), Activation::Gelu(_)) => cuda::takes(device, x.dtype()),
        _ => false,
    }
}

/// A tensor as the fused pass of its device reads it: with any strides on the CPU, else contiguous.
fn laid_out(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() { Ok(x.clone()) } else { x.contiguous() }
}

/// `activation(x)`, element by element, under the same contract as [`geglu`].
///
/// # Errors
/// An integer dtype.
pub fn activate(x: &Tensor, activation: impl Into<Activation>) -> Result<Tensor> {
    let activation = activation.into();
    if is_fused(x, activation) {
        laid_out(x)?.apply_op1(Activate(activation))
    } else {
        composed::activate(x, activation)
    }
}

/// The gradient of `x`, given that of `activation(x)`.
pub fn activate_gradient(x: &Tensor, grad: &Tensor, activation: Activation) -> Result<Tensor> {
    laid_out(x)?.apply_op2(&laid_out(grad)?, ActivateBackward(activation))
}

/// The gradients of `gate` and `up`, given that of the product.
pub fn geglu_gradients(
    gate: &Tensor,
    up: &Tensor,
    grad: &Tensor,
    activation: Activation,
) -> Result<(Tensor, Tensor)> {
    let [gate, up, grad] = [laid_out(gate)?, laid_out(up)?, laid_out(grad)?];
    let both = gate.apply_op3(&up, &grad, GegluBackward(activation))?; // [2, ...]
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

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, x: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        Ok((cuda::activate(self.0, (x, layout))?, layout.shape().clone()))
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

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        grad: &CudaStorage,
        grad_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let dx = cuda::activate_backward(self.0, (x, x_layout), (grad, grad_layout))?;
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

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        gate: &CudaStorage,
        gate_layout: &Layout,
        up: &CudaStorage,
        up_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let product = cuda::geglu(self.0, (gate, gate_layout), (up, up_layout))?;
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

/// (gate, up) to the activation and the product, stacked along a new first dimension.
struct ActivatedAndProduct(Activation);

impl CustomOp2 for ActivatedAndProduct {
    fn name(&self) -> &'static str {
        "activated-and-product"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let both = cpu::activated_and_product(self.0, (gate, gate_layout), (up, up_layout))?;
        Ok((both, stacked(gate_layout)))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _both: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let of_activated = activate_gradient(gate, &grad.get(0)?, self.0)?;
        let (dgate, dup) = geglu_gradients(gate, up, &grad.get(1)?, self.0)?;
        Ok((Some((dgate + of_activated)?), Some(dup)))
    }
}

/// (gate, up) to the products under both forms of GELU, stacked along a new first dimension.
struct GegluPair;

impl CustomOp2 for GegluPair {
    fn name(&self) -> &'static str {
        "geglu-pair"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let products = cpu::geglu_pair((gate, gate_layout), (up, up_layout))?;
        Ok((products, stacked(gate_layout)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        gate: &CudaStorage,
        gate_layout: &Layout,
        up: &CudaStorage,
        up_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let products = cuda::geglu_pair((gate, gate_layout), (up, up_layout))?;
        Ok((products, stacked(gate_layout)))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _products: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (exact_gate, exact_up) = geglu_gradients(gate, up, &grad.get(0)?, Activation::EXACT)?;
        let (tanh_gate, tanh_up) = geglu_gradients(gate, up, &grad.get(1)?, Activation::TANH)?;
        Ok((Some((exact_gate + tanh_gate)?), Some((exact_up + tanh_up)?)))
    }
}

/// The shape of two tensors along a new first dimension.
fn stacked(layout: &Layout) -> Shape {
    Shape::from([&[2], layout.dims()].concat())
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
        Ok((both, stacked(gate_layout)))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        gate: &CudaStorage,
        gate_layout: &Layout,
        up: &CudaStorage,
        up_layout: &Layout,
        grad: &CudaStorage,
        grad_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (gate, up) = ((gate, gate_layout), (up, up_layout));
        let both = cuda::geglu_backward(self.0, gate, up, (grad, grad_layout))?;
        Ok((both, stacked(gate_layout)))
    }
}

#[cfg(test)]
mod tests;
