//! Gate and up, the block's first step.

use super::layers::{of_variable, variable};
use crate::kernels::linear::matrix::Matrix;
use crate::kernels::linear::{Linear, Packed, Weight, as_rows, common_dtype, packed_matmul};
use candle_core::{D, DType, Module, Result, Tensor, Var};

/// What the projections gate and up make of an input, before any activation.
#[derive(Debug, Clone)]
pub struct GateUp {
    /// `gate(x)`: `[..., intermediate]`.
    pub gate: Tensor,
    /// `up(x)`: `[..., intermediate]`.
    pub up: Tensor,
}

/// How the weights of gate and up are held.
#[derive(Debug, Clone)]
pub(super) enum Projection {
    Separate {
        gate: Linear,
        up: Linear,
    },
    /// Both in one weight, `[2 * intermediate, hidden]`, gate's rows first.
    Merged(Linear),
    /// The weights packed into one stream, and the biases, `[2, intermediate]`.
    Packed(Packed, Option<Tensor>),
}

impl Projection {
    /// `[..., hidden]` to `[..., intermediate]` twice.
    pub fn forward(&self, xs: &Tensor) -> Result<GateUp> {
        match self {
            Self::Packed(weight, bias) if xs.dtype() == DType::F64 => {
                let both = Weight::Packed(weight.clone()).to_tensor(DType::F64)?;
                let bias = bias.as_ref().map(Tensor::flatten_all).transpose()?;
                split(Linear::new(Weight::Tensor(both), bias)?.forward(xs)?)
            }
            Self::Separate { gate, up } => {
                Ok(GateUp { gate: gate.forward(xs)?, up: up.forward(xs)? })
            }
            Self::Packed(weight, bias) => {
                let x = as_rows(xs)?;
                let both = packed_matmul(weight, &x, bias.as_ref())?; // [2, rows, intermediate]
                let dims = [&xs.dims()[..xs.rank() - 1], &[weight.out_features()]].concat();
                let part = |i: usize| both.get(i)?.reshape(dims.as_slice()); // [..., intermediate]
                Ok(GateUp { gate: part(0)?, up: part(1)? })
            }
            Self::Merged(gate_up) => split(gate_up.forward(xs)?),
        }
    }

    pub fn packed(&self) -> Result<Self> {
        let (gate, up) = match self {
            Self::Packed(..) => return Ok(self.clone()),
            Self::Separate { gate, up } => (gate.clone(), up.clone()),
            Self::Merged(both) => unmerged(both)?,
        };
        let matrix = |layer: &Linear| match layer.weight() {
            Weight::Tensor(weight) => Matrix::of(weight),
            Weight::Packed(packed) => Matrix::of(&packed.unpacked()?.swap_remove(0)),
        };
        let matrices = Matrix::alike(vec![matrix(&gate)?, matrix(&up)?]);
        let weight = Packed::of(matrices)?;
        let bias = match (gate.bias(), up.bias()) {
            (None, None) => None,
            (Some(gate), None) => Some(Tensor::stack(&[gate, &gate.zeros_like()?], 0)?),
            (None, Some(up)) => Some(Tensor::stack(&[&up.zeros_like()?, up], 0)?),
            (Some(gate), Some(up)) => {
                let wide = common_dtype([gate, up].into_iter())?;
                Some(Tensor::stack(&[gate.to_dtype(wide)?, up.to_dtype(wide)?], 0)?)
            }
        };
        Ok(Self::Packed(weight, bias))
    }

    /// With other weights in place of its tensors.
    ///
    /// # Errors
    /// Packed ones; those of `f`.
    pub fn map_tensors(&self, f: impl Fn(&Tensor) -> Result<Tensor>) -> Result<Self> {
        let map = |linear: &Linear| linear.map_tensor(&f);
        Ok(match self {
            Self::Separate { gate, up } => Self::Separate { gate: map(gate)?, up: map(up)? },
            Self::Merged(both) => Self::Merged(map(both)?),
            Self::Packed(..) => candle_core::bail!("the weights are packed already"),
        })
    }

    pub fn frozen(&self) -> Self {
        match self {
            Self::Packed(weight, bias) => Self::Packed(weight.frozen(), bias.clone()),
            tensors => tensors.clone(),
        }
    }

    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        Ok(match self {
            Self::Separate { gate, up } => {
                Self::Separate { gate: gate.to_dtype(dtype)?, up: up.to_dtype(dtype)? }
            }
            Self::Merged(both) => Self::Merged(both.to_dtype(dtype)?),
            Self::Packed(weight, bias) => {
                let bias = bias.as_ref().map(|bias| bias.to_dtype(dtype)).transpose()?;
                Self::Packed(weight.to_dtype(dtype)?, bias)
            }
        })
    }

    /// With copies of the weights as variables, and the variables.
    pub fn with_variables(&self) -> Result<(Self, Vec<Var>)> {
        Ok(match self {
            Self::Separate { gate, up } => {
                let ((gate, of_gate), (up, of_up)) = (variable(gate)?, variable(up)?);
                (Self::Separate { gate, up }, vec![of_gate, of_up])
            }
            Self::Merged(both) => {
                let (both, of_both) = variable(both)?;
                (Self::Merged(both), vec![of_both])
            }
            Self::Packed(weight, bias) => {
                let both = Weight::Packed(weight.clone()).to_tensor(DType::F32)?;
                let bias = bias.as_ref().map(Tensor::flatten_all).transpose()?;
                let (both, of_both) = of_variable(&both, bias.as_ref())?;
                (Self::Merged(both), vec![of_both])
            }
        })
    }
}

/// What gate and up make of an input, out of both in one: `[..., 2 * intermediate]`, gate first.
fn split(both: Tensor) -> Result<GateUp> {
    let intermediate = both.dim(D::Minus1)? / 2;
    let part = |at: usize| both.narrow(D::Minus1, at, intermediate);
    Ok(GateUp { gate: part(0)?, up: part(intermediate)? })
}

/// A layer whose weight is `[2n, in]` as two layers.
fn unmerged(both: &Linear) -> Result<(Linear, Linear)> {
    let n = both.weight().dims()?.0 / 2;
    let mut parts = both.split(&[n, n])?;
    let up = parts.swap_remove(1);
    Ok((parts.swap_remove(0), up))
}
