//! The activation of a gated block: GELU in either form, or what wrong ports and sibling
//! families use in its place.

use crate::error::UnknownActivation;
use crate::kernels::gelu::{Gelu, plain};
use std::{fmt, str::FromStr};

/// The function that the gate passes through.
///
/// Gemma uses [`Gelu::Tanh`]. SiLU and ReLU are here because other gated blocks use them and
/// because ports use them by mistake (candle's quantized Gemma 3 computes SiLU).
///
/// ```
/// use gemma_mlp::{Activation, Gelu};
/// assert_eq!("gelu_new".parse::<Activation>()?, Activation::Gelu(Gelu::Tanh));
/// assert_eq!("swish".parse::<Activation>()?, Activation::Silu);
/// # Ok::<(), gemma_mlp::UnknownActivation>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// GELU, exact or tanh.
    Gelu(Gelu),
    /// `x·σ(x)`, also called swish.
    Silu,
    /// `x·σ(1.702·x)`, the logistic approximation (Hendrycks and Gimpel 2016), transformers'
    /// `quick_gelu`.
    QuickGelu,
    /// `max(x, 0)`, with derivative 0 at 0 as in PyTorch and JAX.
    Relu,
}

impl Activation {
    /// [`Gelu::Exact`].
    pub const EXACT: Self = Self::Gelu(Gelu::Exact);
    /// [`Gelu::Tanh`], with which Gemma was trained.
    pub const TANH: Self = Self::Gelu(Gelu::Tanh);
    /// Every activation once.
    pub const ALL: &'static [Self] =
        &[Self::EXACT, Self::TANH, Self::Silu, Self::QuickGelu, Self::Relu];

    /// The names beyond [`Gelu::NAMES`].
    const OTHER_NAMES: [(&'static str, Self); 4] = [
        ("silu", Self::Silu),
        ("swish", Self::Silu),
        ("quick_gelu", Self::QuickGelu),
        ("relu", Self::Relu),
    ];

    /// Reads a name as transformers' `hidden_act` and `hidden_activation` use it.
    ///
    /// Narrower than parsing: in a config `tanh` would be the plain hyperbolic tangent.
    ///
    /// # Errors
    /// Any other name; the error lists the accepted ones.
    pub fn from_huggingface(name: &str) -> Result<Self, UnknownActivation> {
        let gelu = Gelu::NAMES.iter().map(|&(n, gelu)| (n, Self::Gelu(gelu)));
        let names = gelu.filter(|(n, _)| n.starts_with("gelu")).chain(Self::OTHER_NAMES);
        match names.clone().find(|(accepted, _)| *accepted == name) {
            Some((_, activation)) => Ok(activation),
            None => Err(UnknownActivation::new(name, names.map(|(n, _)| n))),
        }
    }

    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its place in [`Self::ALL`].
    pub fn index(self) -> usize {
        match self {
            Self::Gelu(gelu) => gelu as usize,
            Self::Silu => 2,
            Self::QuickGelu => 3,
            Self::Relu => 4,
        }
    }

    /// Our own name, which [`fmt::Display`] prints too: `exact`, `tanh`, `silu`,
    /// `quick_gelu` or `relu`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gelu(gelu) => gelu.name(),
            Self::Silu => "silu",
            Self::QuickGelu => "quick_gelu",
            Self::Relu => "relu",
        }
    }
}

/// The slope of the logistic approximation to GELU.
pub const QUICK: f64 = 1.702;

impl From<Gelu> for Activation {
    fn from(gelu: Gelu) -> Self {
        Self::Gelu(gelu)
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Activation {
    type Err = UnknownActivation;

    /// Reads any of [`Gelu::NAMES`], `silu`, `swish`, `quick_gelu` or `relu`.
    fn from_str(name: &str) -> Result<Self, UnknownActivation> {
        let other = plain(name);
        match Self::OTHER_NAMES.iter().find(|(accepted, _)| *accepted == other) {
            Some(&(_, activation)) => Ok(activation),
            None => name
                .parse()
                .map(Self::Gelu)
                .map_err(|e: UnknownActivation| e.also_accepted(Self::OTHER_NAMES.map(|(n, _)| n))),
        }
    }
}

impl serde::Serialize for Activation {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for Activation {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let names = ["exact", "tanh", "silu", "quick_gelu", "relu"];
        assert_eq!(Activation::ALL.iter().map(|a| a.name()).collect::<Vec<_>>(), names);
        for name in names {
            assert_eq!(name.parse::<Activation>().unwrap().to_string(), name);
        }
        let message = "mish".parse::<Activation>().unwrap_err().to_string();
        assert!(message.contains("gelu_pytorch_tanh") && message.contains("silu"), "{message}");
    }

    /// A list, and a `match` over the same list that does not compile when a variant is missing.
    macro_rules! every {
        ($($name:ident $(($gelu:path))?),*) => {{
            let _complete = |activation: Activation| match activation {
                $(Activation::$name $(($gelu))? => (),)*
            };
            [$(Activation::$name $(($gelu))?),*]
        }};
    }

    #[test]
    fn all_is_complete_and_in_order() {
        let every = every![Gelu(Gelu::Exact), Gelu(Gelu::Tanh), Silu, QuickGelu, Relu];
        assert_eq!(Activation::ALL, every);
        for (i, activation) in every.into_iter().enumerate() {
            assert_eq!(activation.index(), i, "{activation}");
        }
    }

    #[test]
    fn a_config_s_tanh_is_not_gelu() {
        assert_eq!(Activation::from_huggingface("gelu"), Ok(Activation::EXACT));
        assert_eq!(Activation::from_huggingface("gelu_fast"), Ok(Activation::TANH));
        for name in ["tanh", "none", "GELU", "mish"] {
            let message = Activation::from_huggingface(name).unwrap_err().to_string();
            assert!(
                message.contains("gelu_pytorch_tanh") && !message.contains("none,"),
                "{message}"
            );
        }
    }
}
