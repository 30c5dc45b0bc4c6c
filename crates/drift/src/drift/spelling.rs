//! Sides as the command line spells them.

use super::side::{DTYPES, Side, float};
use candle_core::DType;
use gemma_mlp::checkpoint::Mixture;
use gemma_mlp::{Activation, Rounding, UnknownActivation};
use std::str::FromStr;

/// A side as the command line spells it, which may leave the dtype open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SideSpec {
    activation: Activation,
    rounding: Rounding,
    dtype: Option<DType>,
    weights: Option<Mixture>,
    q8_activations: bool,
}

/// As [`Side::q8_activations`] is spelled.
const Q8_ACTIVATIONS: &str = "q8-activations";

impl SideSpec {
    /// The side, in a dtype unless the spelling names its own.
    pub fn side(self, dtype: DType) -> Side {
        let Self { activation, rounding, dtype: own, weights, q8_activations } = self;
        Side { activation, rounding, dtype: own.unwrap_or(dtype), weights, q8_activations }
    }
}

/// A text that is no [`SideSpec`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSide {
    /// A part that is neither an activation nor a rounding nor a dtype nor what weights are quantised to.
    #[error(
        "'{part}' in '{text}' is neither a rounding ({}) nor a dtype ({}) nor what weights are quantised to ({}) nor {Q8_ACTIVATIONS}; {source}",
        roundings(), DTYPES.map(|dtype| dtype.as_str()).join(", "), mixtures()
    )]
    UnknownPart {
        /// The part.
        part: String,
        /// All of it.
        text: String,
        /// Why it is no activation.
        source: UnknownActivation,
    },
    /// Two activations, roundings, dtypes or mixtures.
    #[error("'{part}' in '{text}' repeats a setting")]
    Repeated {
        /// The second one.
        part: String,
        /// All of it.
        text: String,
    },
    /// No activation.
    #[error("'{0}' does not name an activation: add exact or tanh, as in pytorch:exact")]
    NoActivation(String),
}

impl FromStr for SideSpec {
    type Err = InvalidSide;

    /// Reads an activation, and optionally a rounding, a dtype, what weights are quantised to and `q8-activations`, separated
    /// by colons, in any order: `exact`, `tanh:bf16`, `tanh:every-op:bf16`, `pytorch:exact`, `tanh:q4_k_m`.
    fn from_str(text: &str) -> Result<Self, InvalidSide> {
        let (mut activation, mut rounding, mut dtype, mut weights) = (None, None, None, None);
        let mut q8_activations = false;
        for part in text.split(':') {
            let repeated = if let Some(value) = Rounding::from_name(part) {
                rounding.replace(value).is_some()
            } else if let Some(value) = float(part) {
                dtype.replace(value).is_some()
            } else if let Some(value) = Mixture::from_name(part) {
                weights.replace(value).is_some()
            } else if part == Q8_ACTIVATIONS {
                std::mem::replace(&mut q8_activations, true)
            } else {
                let value = part.parse().map_err(|source| InvalidSide::UnknownPart {
                    part: part.into(),
                    text: text.into(),
                    source,
                })?;
                activation.replace(value).is_some()
            };
            if repeated {
                return Err(InvalidSide::Repeated { part: part.into(), text: text.into() });
            }
        }
        let activation = activation.ok_or_else(|| InvalidSide::NoActivation(text.into()))?;
        Ok(Self {
            activation,
            rounding: rounding.unwrap_or_default(),
            dtype,
            weights,
            q8_activations,
        })
    }
}

/// The names of all roundings.
fn roundings() -> String {
    Rounding::names().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
}

/// The names of all mixtures.
fn mixtures() -> String {
    Mixture::ALL.map(|mixture| mixture.name().to_lowercase()).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use gemma_mlp::Framework;

    #[test]
    fn spellings() {
        let side = |text: &str| text.parse::<SideSpec>().map(|spec| spec.side(DType::F32));
        let tanh = Side::new(Activation::TANH, DType::F32);
        assert_eq!(side("tanh").unwrap(), tanh);
        assert_eq!(side("tanh:bf16").unwrap(), Side { dtype: DType::BF16, ..tanh });
        let candle = side("gelu_pytorch_tanh:f16:every-op").unwrap();
        assert_eq!(candle, Side { rounding: Rounding::EveryOp, dtype: DType::F16, ..tanh });
        assert_eq!(candle.to_string(), "tanh, rounded every-op in f16");
        let pytorch = Side { rounding: Rounding::Like(Framework::PyTorch), ..tanh };
        for text in ["tanh:pytorch", "pytorch:tanh", "f32:transformers:tanh"] {
            assert_eq!(side(text).unwrap(), pytorch, "{text}");
        }
        assert_eq!(pytorch.to_string(), "tanh in f32", "where it is like any other");
        let half = Side { dtype: DType::BF16, ..pytorch };
        assert_eq!(half.to_string(), "tanh as pytorch in bf16");
        let quantised = side("q4_k_m:tanh").unwrap();
        assert_eq!(quantised, Side { weights: Some(Mixture::Q4KM), ..tanh });
        assert_eq!(quantised.to_string(), "tanh in f32 with weights in Q4_K_M");
        assert_eq!(side("tanh:bf16:Q8_0").unwrap().weights, Some(Mixture::Q8_0));
        let both = side("tanh:q8-activations:q8_0").unwrap().to_string();
        assert_eq!(both, "tanh in f32 with weights in Q8_0 and activations in Q8");
        for text in [
            "",
            "mish",
            "tanh:u8",
            "tanh:",
            "bf16",
            "jax",
            "tanh:exact",
            "tanh:jax:candle",
            "tanh:q4_0:q8_0",
            "tanh:q8-activations:q8-activations",
        ] {
            assert!(side(text).is_err(), "{text}");
        }
    }

    #[test]
    fn errors_say_what_to_write() {
        let error = |text: &str| text.parse::<SideSpec>().unwrap_err().to_string();
        assert!(error("pytorch:bf16").contains("add exact or tanh"), "{}", error("pytorch:bf16"));
        for name in ["after-activation", "llama.cpp", "f16", "gelu_pytorch_tanh", "silu", "q5_k_m"]
        {
            assert!(error("tanh:torch").contains(name), "{}", error("tanh:torch"));
        }
    }
}
