//! What happens between a block's projections.

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

    /// The products under the exact and the tanh form of GELU, whatever its own activation: `[2, ...]`.
    pub(super) fn both(self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        match self.rounding {
            Rounding::Once => geglu_pair(gate, up),
            rounding => {
                let under = |gelu| rounding.geglu(gate, up, Activation::Gelu(gelu));
                Tensor::stack(&[under(Gelu::Exact)?, under(Gelu::Tanh)?], 0)
            }
        }
    }
}
