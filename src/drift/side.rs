//! One way of computing the model.

use crate::activation::Activation;
use crate::error::{Error, Result};
use crate::rounding::Rounding;
use candle_core::DType;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// One way of computing the model: an activation, where it is rounded, and a dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// What stands in the gate.
    pub activation: Activation,
    /// Where the gated activation is rounded.
    pub rounding: Rounding,
    /// The dtype of the residual stream and of everything that is not documented to be wider.
    #[serde(with = "dtype")]
    pub dtype: DType,
}

/// Two sides. Figures say how far b is from a.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sides {
    /// The reference.
    pub a: Side,
    /// What is compared with it.
    pub b: Side,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.activation)?;
        if self.rounding != Rounding::Once {
            write!(f, ", rounded {}", self.rounding)?;
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

    /// Reads an activation, and optionally a rounding and a dtype, separated by colons:
    /// `exact`, `tanh:bf16`, `tanh:every-op:bf16`.
    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split(':');
        let activation = parts.next().unwrap_or_default().parse::<Activation>();
        let activation = activation.map_err(|e| Error::Input(e.to_string()))?;
        let mut spec = Self { activation, rounding: Rounding::Once, dtype: None };
        for part in parts {
            if let Some(rounding) = Rounding::from_name(part) {
                spec.rounding = rounding;
            } else if let Some(dtype) = float(part) {
                spec.dtype = Some(dtype);
            } else {
                return Err(Error::Input(format!(
                    "'{part}' in '{text}' is neither a rounding (once, after-activation, every-op) \
                     nor a dtype (f64, f32, bf16, f16)"
                )));
            }
        }
        Ok(spec)
    }
}

/// The floating-point dtypes that a model runs in, by name.
fn float(name: &str) -> Option<DType> {
    let dtypes = [DType::F64, DType::F32, DType::BF16, DType::F16];
    dtypes.into_iter().find(|dtype| dtype.as_str() == name)
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
        for text in ["", "mish", "tanh:u8", "tanh:", "bf16"] {
            assert!(side(text).is_err(), "{text}");
        }
    }
}
