//! Where and how a gated block in a half-precision type rounds between gate and down: beside the
//! activation and the dtype, what tells one framework's block from another's with equal weights.

mod candle_cuda;
mod cuda;
mod emulated;
mod framework;
mod half_type;
mod jax;
mod llama_cpp;
mod onednn;
mod pytorch;
mod real;
mod sleef;

pub use framework::Framework;

use crate::kernels::activation::Activation;
use crate::kernels::geglu::{activate, activated_and_product, geglu};
use crate::kernels::gelu::Gelu;
use crate::kernels::operands::check_pair;
use candle_core::{DType, Result, Tensor};
use emulated::Emulated;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Where `activation(gate) ⊙ up` is rounded to the block's dtype.
///
/// In f32 and f64 all give the same bits, but [`EveryOp`](Self::EveryOp), which has candle's, and llama.cpp's tanh
/// form, which is a table of f16.
///
/// ```
/// use gemma_mlp::{Framework, Rounding};
/// assert_eq!(Rounding::from_name("jax"), Some(Rounding::Like(Framework::Jax)));
/// assert_eq!(Rounding::from_name("candle"), Some(Rounding::EveryOp));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Rounding {
    /// Once, at the end: what this crate does, and GPU kernels that compute the product in one pass.
    #[default]
    Once,
    /// The activation, then the product, each correctly rounded: PyTorch and transformers, but for
    /// the last bits of their polynomials.
    AfterActivation,
    /// Every operation inside the activation too, as candle 0.11 has it on the CPU: by its own `gelu`,
    /// `gelu_erf` and `silu`. Its exact form of a half-precision type is computed in f64 and rounded
    /// once before the product.
    EveryOp,
    /// Bit for bit as a framework does, its polynomials included.
    Like(Framework),
}

impl Rounding {
    const NAMES: &'static [(&'static str, Self)] = &[
        ("once", Self::Once),
        ("after-activation", Self::AfterActivation),
        ("every-op", Self::EveryOp),
        ("candle", Self::EveryOp),
    ];

    /// All accepted names with what they stand for: places, then frameworks.
    pub fn names() -> impl Iterator<Item = (&'static str, Self)> {
        let frameworks = Framework::NAMES.iter();
        let frameworks = frameworks.map(|&(name, framework)| (name, Self::Like(framework)));
        Self::NAMES.iter().copied().chain(frameworks)
    }

    /// The rounding with a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::names().find(|(n, _)| *n == name).map(|(_, rounding)| rounding)
    }

    /// Our own name, which [`fmt::Display`] prints too: `once`, `after-activation`, `every-op` or
    /// that of a framework.
    pub fn name(self) -> &'static str {
        Self::names().find(|(_, rounding)| *rounding == self).map_or("", |(name, _)| name)
    }

    /// `activation(x)` in the shape and dtype of `x`, rounded so.
    ///
    /// # Errors
    /// An integer dtype.
    pub fn activate(self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        if let Some(emulated) = self.emulated(activation, x.dtype()) {
            return emulated.activate(x);
        }
        match (self, activation) {
            _ if self.is_table(activation, x.dtype()) => llama_cpp::activate(x),
            (Self::EveryOp, Activation::Gelu(Gelu::Tanh)) => x.gelu(),
            (Self::EveryOp, Activation::Gelu(Gelu::Exact)) => x.gelu_erf(),
            (Self::EveryOp, Activation::Silu) => x.silu(),
            _ => activate(x, activation),
        }
    }

    /// `activation(gate) ⊙ up` in the shape and dtype of both, rounded so.
    ///
    /// # Errors
    /// Shapes or dtypes that differ, an integer dtype.
    pub fn geglu(self, gate: &Tensor, up: &Tensor, activation: Activation) -> Result<Tensor> {
        if let Some(emulated) = self.emulated(activation, gate.dtype()) {
            check_pair(gate, up, "geglu")?;
            return emulated.geglu(gate, up);
        }
        if self.is_once() && !self.is_table(activation, gate.dtype()) {
            geglu(gate, up, activation)
        } else {
            self.activate(gate, activation)? * up
        }
    }

    /// `activation(gate)` and `activation(gate) ⊙ up`, rounded so, for little more than the price of
    /// one of them.
    ///
    /// # Errors
    /// Those of [`Self::geglu`].
    pub(crate) fn activated_and_product(
        self,
        gate: &Tensor,
        up: &Tensor,
        activation: Activation,
    ) -> Result<(Tensor, Tensor)> {
        let emulated = self.emulated(activation, gate.dtype()).is_some();
        let table = self.is_table(activation, gate.dtype());
        if !emulated && !table && self.is_once() {
            return activated_and_product(gate, up, activation);
        }
        let activated = self.activate(gate, activation)?;
        let product = match emulated {
            true => self.geglu(gate, up, activation)?,
            false => (&activated * up)?,
        };
        Ok((activated, product))
    }

    /// The framework's arithmetic, where it is reproduced.
    fn emulated(self, activation: Activation, dtype: DType) -> Option<Emulated> {
        match (self, activation) {
            (Self::Like(framework), Activation::Gelu(gelu)) => Emulated::of(framework, gelu, dtype),
            _ => None,
        }
    }

    /// Whether it is llama.cpp's table, which is of f16 in a wider model too.
    fn is_table(self, activation: Activation, dtype: DType) -> bool {
        let tanh = activation == Activation::TANH;
        let wide = matches!(dtype, DType::F32 | DType::F64);
        tanh && self == Self::Like(Framework::LlamaCpp) && wide
    }

    /// Whether this crate's own activations are rounded with the product only.
    fn is_once(self) -> bool {
        match self {
            Self::Once => true,
            Self::Like(framework) => !framework.rounds_activation(),
            Self::AfterActivation | Self::EveryOp => false,
        }
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Rounding {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Rounding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::from_name(&name)
            .ok_or_else(|| serde::de::Error::custom(format!("no rounding is '{name}'")))
    }
}
