//! What happens between a block's projections.

use super::pair::Pair;
use crate::kernels::activation::Activation;
use crate::kernels::geglu::geglu_pair;
use crate::kernels::gelu::Gelu;
use crate::rounding::Rounding;
use candle_core::{Result, Tensor};

/// How a gate is computed: by which activation, and rounded where. Everything that two runs of one
/// block may differ in without a second copy of its weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gating {
    /// The function that the gate passes through.
    pub activation: Activation,
    /// Where `activation(gate) ⊙ up` is rounded.
    pub rounding: Rounding,
}

impl Gating {
    /// An activation, rounded once, after the product.
    pub fn new(activation: impl Into<Activation>) -> Self {
        Self { activation: activation.into(), rounding: Rounding::Once }
    }

    pub(super) fn activate(self, gate: &Tensor) -> Result<Tensor> {
        self.rounding.activate(gate, self.activation)
    }

    /// `activation(gate) ⊙ up`.
    pub(super) fn gated(self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        self.rounding.geglu(gate, up, self.activation)
    }

    pub(super) fn activated_and_product(
        self,
        gate: &Tensor,
        up: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        self.rounding.activated_and_product(gate, up, self.activation)
    }

    /// What `output` makes of the product under either form of GELU, whatever its own activation: of
    /// both in one tensor, `[2, ...]`, where they are rounded once.
    pub(super) fn pair(
        self,
        gate: &Tensor,
        up: &Tensor,
        output: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Pair> {
        if self.rounding == Rounding::Once {
            let both = output(&geglu_pair(gate, up)?)?;
            return Ok(Pair { exact: both.get(0)?, tanh: both.get(1)? });
        }
        let under = |gelu| output(&self.rounding.geglu(gate, up, Activation::Gelu(gelu))?);
        Ok(Pair { exact: under(Gelu::Exact)?, tanh: under(Gelu::Tanh)? })
    }
}
