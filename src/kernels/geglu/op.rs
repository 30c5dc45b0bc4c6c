//! The gated activation's operations, one type for all.

use crate::kernels::activation::Activation;

/// What is computed, element by element, of one, two or three tensors of one shape and dtype.
///
/// Of two results the second lies behind the first, along a new first dimension.
#[derive(Debug, Clone, Copy)]
pub(super) enum Op {
    /// (x) to activation(x).
    Activate(Activation),
    /// (x, grad) to grad·activation'(x).
    ActivateBackward(Activation),
    /// (gate, up) to activation(gate)·up.
    Geglu(Activation),
    /// (gate, up) to the products under the exact and the tanh form of GELU.
    GegluPair,
    /// (gate, up) to activation(gate) and to its product with up.
    ActivatedAndProduct(Activation),
    /// (gate, up, grad) to the gradients of gate and of up.
    GegluBackward(Activation),
}

impl Op {
    pub fn name(self) -> &'static str {
        match self {
            Self::Activate(_) => "activate",
            Self::ActivateBackward(_) => "activate-backward",
            Self::Geglu(_) => "geglu",
            Self::GegluPair => "geglu-pair",
            Self::ActivatedAndProduct(_) => "activated-and-product",
            Self::GegluBackward(_) => "geglu-backward",
        }
    }

    /// How many results there are.
    pub fn outputs(self) -> usize {
        match self {
            Self::Activate(_) | Self::ActivateBackward(_) | Self::Geglu(_) => 1,
            Self::GegluPair | Self::ActivatedAndProduct(_) | Self::GegluBackward(_) => 2,
        }
    }
}
