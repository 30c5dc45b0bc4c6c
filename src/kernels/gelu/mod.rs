//! GELU in its two forms: formulas, names, and the truth that computed values are measured by.

mod coefficients;
mod double_double;
mod exact;
mod exact_f32;
mod exact_f64;
mod formula;
pub(crate) mod logistic;
mod lookup;
pub mod measure;
mod precision;
mod symmetric;
mod tanh;
mod truth;

pub use double_double::DoubleDouble;
pub(crate) use exact::Exact;
pub(crate) use formula::{Formula, weighted};
pub(crate) use precision::{Double, Precision, Single};
pub(crate) use tanh::Tanh;
pub(crate) use truth::logistic_truth;
pub use truth::{Truth, truth};

use crate::error::UnknownActivation;
use std::{fmt, str::FromStr};

/// The switch: which of its two functions "GELU" means.
///
/// They differ by at most 4.73e-4, near |x| = 2.70, and their derivatives by at most 8.7e-4,
/// near |x| = 2.02. Gemma was trained with [`Gelu::Tanh`].
///
/// Parsing accepts what each framework calls them; printing gives `exact` or `tanh`. In files, where
/// it is a string too, only [`Gelu::NAMES`] are accepted: `none`, PyTorch's argument for the exact
/// form, might mean no activation there.
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
    /// Exact, then tanh.
    pub const ALL: &'static [Self] = &[Self::Exact, Self::Tanh];

    /// The names that files may use, with what each of them means: our own and transformers'.
    ///
    /// transformers' `gelu_new`, `gelu_fast` and `gelu_accurate` are one tanh formula, written out
    /// (`transformers/activations.py`).
    pub const NAMES: &'static [(&'static str, Self)] = &[
        ("exact", Self::Exact),
        ("tanh", Self::Tanh),
        ("gelu", Self::Exact),
        ("gelu_python", Self::Exact),
        ("gelu_pytorch_tanh", Self::Tanh),
        ("gelu_python_tanh", Self::Tanh),
        ("gelu_accurate", Self::Tanh),
        ("gelu_new", Self::Tanh),
        ("gelu_fast", Self::Tanh),
    ];

    /// What PyTorch's, JAX's and Keras's functions are called with, which parsing accepts as well.
    const ARGUMENTS: &'static [(&'static str, Self)] = &[
        ("none", Self::Exact),
        ("approximate=none", Self::Exact),
        ("approximate=tanh", Self::Tanh),
        ("approximate=false", Self::Exact),
        ("approximate=true", Self::Tanh),
    ];

    /// The form that a function's argument stands for, if it is one that is not a name too.
    pub(crate) fn of_argument(argument: &str) -> Option<Self> {
        let argument = plain(argument);
        let found = Self::ARGUMENTS.iter().find(|(accepted, _)| *accepted == argument);
        found.map(|&(_, gelu)| gelu)
    }

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

    /// candle's method of a tensor: `gelu_erf` or `gelu`, which there is the tanh form.
    pub fn candle_name(self) -> &'static str {
        match self {
            Self::Exact => "gelu_erf",
            Self::Tanh => "gelu",
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

    /// Reads any of [`Gelu::NAMES`], or the argument of a framework's function (`none`,
    /// `approximate=True`), in any case, with or without quotes and spaces.
    fn from_str(name: &str) -> Result<Self, UnknownActivation> {
        let plain = plain(name);
        let all = Self::NAMES.iter().chain(Self::ARGUMENTS);
        match all.clone().find(|(accepted, _)| *accepted == plain) {
            Some(&(_, gelu)) => Ok(gelu),
            None => Err(UnknownActivation::new(name, all.map(|&(n, _)| n))),
        }
    }
}

impl serde::Serialize for Gelu {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for Gelu {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        from_file(&name, Self::NAMES.iter().copied()).map_err(serde::de::Error::custom)
    }
}

/// A name as it is compared: lower case, without spaces and quotes.
pub(crate) fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| !c.is_whitespace() && !matches!(c, '"' | '\''))
        .flat_map(char::to_lowercase)
        .collect()
}

/// What a file means by a name. Its spelling is the file's own: nothing else is understood.
pub(crate) fn from_file<T>(
    name: &str,
    names: impl Iterator<Item = (&'static str, T)> + Clone,
) -> Result<T, String> {
    if let Some((_, value)) = names.clone().find(|(accepted, _)| *accepted == name) {
        return Ok(value);
    }
    Err(match Gelu::of_argument(name) {
        Some(gelu) => format!(
            "'{name}' is an argument of a function gelu, not an activation; write \"{}\" or \"{}\"",
            gelu.huggingface_name(),
            gelu.name()
        ),
        None => UnknownActivation::new(name, names.map(|(n, _)| n)).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_framework_name_is_read_and_printed_back() {
        for &gelu in Gelu::ALL {
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

    /// candle's `gelu` is not transformers' of that name.
    #[test]
    fn candle_s_methods_are_the_forms() -> candle_core::Result<()> {
        let x = candle_core::Tensor::new(&[2.7f64], &candle_core::Device::Cpu)?;
        for &gelu in Gelu::ALL {
            let theirs = match gelu.candle_name() {
                "gelu" => x.gelu()?,
                _ => x.gelu_erf()?,
            };
            let difference = theirs.to_vec1::<f64>()?[0] - truth(gelu, [2.7]).value.hi[0];
            assert!(difference.abs() < 1e-7, "{gelu}: {difference}");
        }
        Ok(())
    }

    #[test]
    fn an_unknown_name_lists_the_accepted_ones() {
        let message = "swish".parse::<Gelu>().unwrap_err().to_string();
        for (name, _) in Gelu::NAMES.iter().chain(Gelu::ARGUMENTS) {
            assert!(message.contains(name), "{message}");
        }
    }
}
