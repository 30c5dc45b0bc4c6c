//! The operations as candle sees them: one way to the CPU, one to CUDA, and one table of gradients.

use super::cpu;
#[cfg(feature = "cuda")]
use super::cuda;
use super::op::Op;
use crate::kernels::activation::Activation;
#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, Error, Layout, Result, Shape, Tensor, bail,
};

impl Op {
    /// The operation on its operands, wherever they are. With any strides on the CPU; elsewhere they
    /// are made contiguous.
    pub fn apply<const N: usize>(self, operands: [&Tensor; N]) -> Result<Tensor> {
        let laid_out =
            |x: &Tensor| if x.device().is_cpu() { Ok(x.clone()) } else { x.contiguous() };
        let operands = operands.map(laid_out).into_iter().collect::<Result<Vec<_>>>()?;
        match operands.as_slice() {
            [x] => x.apply_op1(self),
            [x, y] => x.apply_op2(y, self),
            [x, y, z] => x.apply_op3(y, z, self),
            _ => bail!("{} takes one, two or three tensors", self.name()),
        }
    }

    /// The result's shape, from that of any operand.
    fn shape(self, operand: &Layout) -> Shape {
        match self.outputs() {
            1 => operand.shape().clone(),
            outputs => Shape::from([&[outputs], operand.dims()].concat()),
        }
    }

    /// The gradients of the operands, given that of the result.
    fn gradients(self, operands: &[&Tensor], grad: &Tensor) -> Result<Vec<Tensor>> {
        match (self, operands) {
            (Self::Activate(activation), [x]) => Ok(vec![activate_gradient(x, grad, activation)?]),
            (Self::Geglu(activation), [gate, up]) => {
                Ok(geglu_gradients(gate, up, grad, activation)?.into())
            }
            (Self::GegluPair, [gate, up]) => {
                let of = |i, activation| geglu_gradients(gate, up, &grad.get(i)?, activation);
                let ([gate, up], [tanh_gate, tanh_up]) =
                    (of(0, Activation::EXACT)?, of(1, Activation::TANH)?);
                Ok(vec![(gate + tanh_gate)?, (up + tanh_up)?])
            }
            (Self::ActivatedAndProduct(activation), [gate, up]) => {
                let of_activated = activate_gradient(gate, &grad.get(0)?, activation)?;
                let [gate, up] = geglu_gradients(gate, up, &grad.get(1)?, activation)?;
                Ok(vec![(gate + of_activated)?, up])
            }
            _ => Err(Error::BackwardNotSupported { op: self.name() }),
        }
    }
}

/// The gradient of `x`, given that of `activation(x)`.
pub fn activate_gradient(x: &Tensor, grad: &Tensor, activation: Activation) -> Result<Tensor> {
    Op::ActivateBackward(activation).apply([x, grad])
}

/// The gradients of `gate` and `up`, given that of the product.
pub fn geglu_gradients(
    gate: &Tensor,
    up: &Tensor,
    grad: &Tensor,
    activation: Activation,
) -> Result<[Tensor; 2]> {
    let both = Op::GegluBackward(activation).apply([gate, up, grad])?; // [2, ...]
    Ok([both.get(0)?, both.get(1)?])
}

/// One of candle's traits for operations, which differ in how many operands there are.
macro_rules! custom_op {
    ($CustomOp:ident: $($x:ident $layout:ident $Gradient:ty),+) => {
        impl $CustomOp for Op {
            fn name(&self) -> &'static str {
                (*self).name()
            }

            fn cpu_fwd(&self, $($x: &CpuStorage, $layout: &Layout),+) -> Result<(CpuStorage, Shape)> {
                let operands = [$(($x, $layout)),+];
                Ok((cpu::run(*self, &operands)?, self.shape(operands[0].1)))
            }

            #[cfg(feature = "cuda")]
            fn cuda_fwd(&self, $($x: &CudaStorage, $layout: &Layout),+) -> Result<(CudaStorage, Shape)> {
                let operands = [$(($x, $layout)),+];
                Ok((cuda::run(*self, &operands)?, self.shape(operands[0].1)))
            }

            #[allow(unused_parens)]
            fn bwd(&self, $($x: &Tensor),+, _result: &Tensor, grad: &Tensor) -> Result<($($Gradient),+)> {
                let mut gradients = self.gradients(&[$($x),+], grad)?.into_iter();
                Ok(($({
                    let $x = gradients.next();
                    $x
                }),+))
            }
        }
    };
}

custom_op!(CustomOp1: x layout Option<Tensor>);
custom_op!(CustomOp2: x x_layout Option<Tensor>, y y_layout Option<Tensor>);
custom_op!(CustomOp3: x x_layout Option<Tensor>, y y_layout Option<Tensor>, z z_layout Option<Tensor>);
