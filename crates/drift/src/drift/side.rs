//! One way of computing the model.

use candle_core::DType;
use gemma_mlp::Activation;
use gemma_mlp::Rounding;
use gemma_mlp::{Error, Result, UnknownActivation};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// One way of computing the model: an activation, where and how it is rounded, and a dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Side {
    /// What stands in the gate.
    #[cfg_attr(feature = "schemars", schemars(with = "String"))]
    pub activation: Activation,
    /// Where and how the gated activation is rounded.
    #[cfg_attr(feature = "schemars", schemars(with = "String"))]
    pub rounding: Rounding,
    /// The dtype of the residual stream and of everything that is not documented to be wider.
    #[serde(with = "dtype")]
    #[cfg_attr(feature = "schemars", schemars(with = "String"))]
    pub dtype: DType,
}

/// Two sides. Figures say how far b is from a.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Sides {
    /// The reference.
    pub a: Side,
    /// What is compared with it.
    pub b: Side,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.activation)?;
        match self.rounding {
            Rounding::Once => {}
            // Of half types only: elsewhere it is our own function.
            Rounding::Like(framework) if self.dtype.size_in_bytes() == 2 => {
                write!(f, " as {framework}")?
            }
            Rounding::Like(_) => {}
            rounding => write!(f, ", rounded {rounding}")?,
        }
        write!(f, " in {}", self.dtype.as_str())
    }
}

/// A side as the command line spells it, which may leave the dtype open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SideSpec {
    activation: Activation,
    rounding: Rounding,
    dtype: Option<DType>,
}

impl SideSpec {
    /// The side, in a dtype unless the spelling names its own.
    pub fn side(self, dtype: DType) -> Side {
        let Self { activation, rounding, dtype: own } = self;
        Side { activation, rounding, dtype: own.unwrap_or(dtype) }
    }
}

impl FromStr for SideSpec {
    type Err = Error;

    /// Reads an activation, and optionally a rounding and a dtype, separated by colons, in any order:
    /// `exact`, `tanh:bf16`, `tanh:every-op:bf16`, `pytorch:exact`.
    fn from_str(text: &str) -> Result<Self> {
        let (mut activation, mut rounding, mut dtype) = (None, None, None);
        for part in text.split(':') {
            let repeated = if let Some(value) = Rounding::from_name(part) {
                rounding.replace(value).is_some()
            } else if let Some(value) = float(part) {
                dtype.replace(value).is_some()
            } else {
                let value = part.parse().map_err(|error| unknown_part(part, text, &error))?;
                activation.replace(value).is_some()
            };
            if repeated {
                return Err(Error::Input(format!("'{text}' says twice what '{part}' is for")));
            }
        }
        let activation = activation.ok_or_else(|| no_activation(text))?;
        Ok(Self { activation, rounding: rounding.unwrap_or_default(), dtype })
    }
}

/// What a part may be, with every name that it may have.
fn unknown_part(part: &str, text: &str, as_activation: &UnknownActivation) -> Error {
    let roundings: Vec<_> = Rounding::names().map(|(name, _)| name).collect();
    let dtypes = DTYPES.map(|dtype| dtype.as_str());
    Error::Input(format!(
        "'{part}' in '{text}' is neither a rounding ({}) nor a dtype ({}); {as_activation}",
        roundings.join(", "),
        dtypes.join(", ")
    ))
}

fn no_activation(text: &str) -> Error {
    Error::Input(format!("'{text}' says how GELU is computed and not which: add exact or tanh"))
}

/// The floating-point dtypes that a model runs in.
const DTYPES: [DType; 4] = [DType::F64, DType::F32, DType::BF16, DType::F16];

/// One of them by name.
fn float(name: &str) -> Option<DType> {
    DTYPES.into_iter().find(|dtype| dtype.as_str() == name)
}

/// The pair whose difference is rounding alone: `a` in the next wider type that hardly rounds (f32
/// for a half type, f64 for f32), and in `dtype`.
///
/// # Errors
/// f64, of which there is nothing wider, and anything that is no floating-point type.
pub fn floor_sides(a: Side, dtype: DType) -> Result<Sides> {
    let wide = match dtype {
        DType::BF16 | DType::F16 => DType::F32,
        DType::F32 => DType::F64,
        other => {
            return Err(Error::Input(format!(
                "there is no noise floor of {}: pass f32, bf16 or f16",
                other.as_str()
            )));
        }
    };
    Ok(Sides { a: Side { dtype: wide, ..a }, b: Side { dtype, ..a } })
}

/// Sides without those that come twice, and where in there each one is.
pub(super) fn distinct<const N: usize>(all: [Side; N]) -> (Vec<Side>, [usize; N]) {
    let mut sides: Vec<Side> = vec![];
    let places = all.map(|side| {
        sides.iter().position(|&other| other == side).unwrap_or_else(|| {
            sides.push(side);
            sides.len() - 1
        })
    });
    (sides, places)
}

mod dtype {
    use super::*;

    pub(super) fn serialize<S: serde::Serializer>(
        dtype: &DType,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(dtype.as_str())
    }

    pub(super) fn deserialize<'de, D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> Result<DType, D::Error> {
        let name = String::deserialize(deserializer)?;
        float(&name).ok_or_else(|| serde::de::Error::custom(format!("no dtype is '{name}'")))
    }

    type Result<T, E> = std::result::Result<T, E>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use gemma_mlp::Framework;

    #[test]
    fn spellings() {
        let side = |text: &str| text.parse::<SideSpec>().map(|spec| spec.side(DType::F32));
        let tanh =
            Side { activation: Activation::TANH, rounding: Rounding::Once, dtype: DType::F32 };
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
        for text in ["", "mish", "tanh:u8", "tanh:", "bf16", "jax", "tanh:exact", "tanh:jax:candle"]
        {
            assert!(side(text).is_err(), "{text}");
        }
    }

    #[test]
    fn errors_say_what_to_write() {
        let error = |text: &str| text.parse::<SideSpec>().unwrap_err().to_string();
        assert!(error("pytorch:bf16").contains("add exact or tanh"), "{}", error("pytorch:bf16"));
        for name in ["after-activation", "llama.cpp", "f16", "gelu_pytorch_tanh", "silu"] {
            assert!(error("tanh:torch").contains(name), "{}", error("tanh:torch"));
        }
    }

    #[test]
    fn json_is_by_name() {
        for (name, rounding) in Rounding::names() {
            let json = serde_json::to_string(&rounding).unwrap();
            assert_eq!(json, format!("\"{}\"", rounding.name()));
            assert_eq!(serde_json::from_str::<Rounding>(&format!("\"{name}\"")).unwrap(), rounding);
        }
        assert!(serde_json::from_str::<Rounding>("\"torch\"").is_err());
    }
}
