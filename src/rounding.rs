//! Where a gated block in a half type rounds between gate and down: the second of the axes, beside
//! the activation and the dtype, on which "the same" block differs.

use crate::activation::Activation;
use crate::geglu::activate;
use crate::gelu::Gelu;
use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where `activation(gate) ⊙ up` is rounded to the block's dtype.
///
/// In f32 and f64 the first two are one and the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rounding {
    /// Once, at the end: what this crate does, and fused GPU kernels.
    #[default]
    Once,
    /// The activation, then the product: PyTorch and transformers, where they are two operations
    /// of which each computes in f32.
    AfterActivation,
    /// Every operation inside the activation too: candle 0.11's `gelu` on the CPU.
    EveryOp,
}

impl Rounding {
    const NAMES: [(&'static str, Self); 3] = [
        ("once", Self::Once),
        ("after-activation", Self::AfterActivation),
        ("every-op", Self::EveryOp),
    ];

    /// The rounding with a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(n, _)| *n == name).map(|(_, rounding)| *rounding)
    }

    /// Our own name, which [`fmt::Display`] prints too: `once`, `after-activation` or `every-op`.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, rounding)| *rounding == self).map_or("", |(name, _)| name)
    }

    /// `activation(x)` in the dtype of `x`, rounded so.
    ///
    /// # Errors
    /// An integer dtype.
    pub(crate) fn activate(self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        match (self, activation) {
            (Self::EveryOp, Activation::Gelu(Gelu::Tanh)) => x.gelu(),
            (Self::EveryOp, Activation::Gelu(Gelu::Exact)) => x.gelu_erf(),
            (Self::EveryOp, Activation::Silu) => x.silu(),
            _ => activate(x, activation),
        }
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
