//! GELU in its two forms: formulas and names. No tensors here.

mod coefficients;
mod double_double;
pub mod exact;
pub mod exact_f32;
pub mod logistic;
mod lookup;
pub mod measure;
mod precision;
mod symmetric;
pub mod tanh;
mod truth;

pub use double_double::DoubleDouble;
pub use precision::{Double, Precision, Single};
pub use truth::{Truth, logistic_truth, truth};

use crate::error::UnknownActivation;
use std::{fmt, str::FromStr};

/// The switch: which of its two functions "GELU" means.
///
/// They differ by at most 4.73e-4, near |x| = 2.70, and their derivatives by at most 8.7e-4,
/// near |x| = 2.02. Gemma was trained with [`Gelu::Tanh`].
///
/// Parsing accepts what each framework calls them; printing gives `exact` or `tanh`.
///
/// ```
/// use gemma_mlp::Gelu;
/// assert_eq!("gelu_pytorch_tanh".parse::<Gelu>()?, Gelu::Tanh);
/// assert_eq!("approximate=False".parse::<Gelu>()?, Gelu::Exact);
/// assert_eq!(Gelu::Exact.huggingface_name(), "gelu");
/// # Ok::<(), gemma_mlp::UnknownActivation>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gelu {
    /// `x·Φ(x)`, through the error function.
    Exact,
    /// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
    Tanh,
}

impl Gelu {
    /// Both forms.
    pub const ALL: [Self; 2] = [Self::Exact, Self::Tanh];

    /// The names that are accepted, with what each of them means.
    ///
    /// Beside our own: transformers' `hidden_act`, PyTorch's `approximate=`, JAX's and Keras's
    /// `approximate=`. transformers' `gelu_new`, `gelu_fast` and `gelu_accurate` are the same tanh
    /// formula, written out (`transformers/activations.py`).
    pub const NAMES: [(&'static str, Self); 14] = [
        ("exact", Self::Exact),
        ("tanh", Self::Tanh),
        ("gelu", Self::Exact),
        ("gelu_python", Self::Exact),
        ("gelu_pytorch_tanh", Self::Tanh),
        ("gelu_python_tanh", Self::Tanh),
        ("gelu_accurate", Self::Tanh),
        ("gelu_new", Self::Tanh),
        ("gelu_fast", Self::Tanh),
        ("none", Self::Exact),
        ("approximate=none", Self::Exact),
        ("approximate=tanh", Self::Tanh),
        ("approximate=false", Self::Exact),
        ("approximate=true", Self::Tanh),
    ];

    /// Our own name, which [`fmt::Display`] prints too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Tanh => "tanh",
        }
    }

    /// The value of transformers' `hidden_act` and `hidden_activation`.
    pub fn huggingface_name(self) -> &'static str {
        match self {
            Self::Exact => "gelu",
            Self::Tanh => "gelu_pytorch_tanh",
        }
    }

    /// The argument of PyTorch's `torch.nn.functional.gelu(x, approximate=…)`.
    pub fn pytorch_name(self) -> &'static str {
        match self {
            Self::Exact => "none",
            Self::Tanh => "tanh",
        }
    }

    /// The argument of `jax.nn.gelu(x, approximate=…)` and of `keras.activations.gelu`.
    pub fn jax_approximate(self) -> bool {
        self == Self::Tanh
    }
}

impl fmt::Display for Gelu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Gelu {
    type Err = UnknownActivation;

    /// Reads any of [`Gelu::NAMES`], in any case, with or without quotes and spaces.
    fn from_str(name: &str) -> Result<Self, UnknownActivation> {
        let plain = plain(name);
        Self::NAMES
            .iter()
            .find(|(accepted, _)| *accepted == plain)
            .map(|&(_, gelu)| gelu)
            .ok_or_else(|| UnknownActivation::new(name, Self::NAMES.map(|(n, _)| n)))
    }
}

/// A name as it is compared: lower case, without spaces and quotes.
pub fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| !c.is_whitespace() && !matches!(c, '"' | '\''))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_framework_name_is_read_and_printed_back() {
        for gelu in Gelu::ALL {
            for name in [gelu.name(), gelu.huggingface_name(), gelu.pytorch_name()] {
                assert_eq!(name.parse(), Ok(gelu), "{name}");
            }
            let jax = format!("approximate={}", gelu.jax_approximate());
            assert_eq!(jax.parse(), Ok(gelu), "{jax}");
            assert_eq!(gelu.to_string().parse(), Ok(gelu));
        }
        assert_eq!("approximate=\"none\"".parse(), Ok(Gelu::Exact));
        assert_eq!(" GELU_New ".parse(), Ok(Gelu::Tanh));
    }

    #[test]
    fn an_unknown_name_lists_the_accepted_ones() {
        let message = "swish".parse::<Gelu>().unwrap_err().to_string();
        for (name, _) in Gelu::NAMES {
            assert!(message.contains(name), "{message}");
        }
    }
}
