//! One way of computing the model.

use crate::error::{Error, Result};
use candle_core::DType;
use gemma_mlp::checkpoint::Mixture;
use gemma_mlp::{Activation, Checkpoint, Rounding};
use serde::{Deserialize, Serialize};
use std::fmt;

/// One way of computing the model: an activation, where and how it is rounded, a dtype, what the weights are quantised to,
/// and whether what they are multiplied by is too.
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
    /// What the weights are quantised to, if they are not as they are stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schemars", schemars(with = "Option<String>"))]
    pub weights: Option<Mixture>,
    /// Whether inputs of products are rounded to 8 bits, as llama.cpp does it for quantised weights.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub q8_activations: bool,
}

impl Side {
    /// An activation in a dtype, rounded once.
    pub fn new(activation: impl Into<Activation>, dtype: DType) -> Self {
        Self {
            activation: activation.into(),
            rounding: Rounding::Once,
            dtype,
            weights: None,
            q8_activations: false,
        }
    }

    /// What its model is loaded as.
    pub fn model(self) -> Model {
        Model { dtype: self.dtype, weights: self.weights, q8_activations: self.q8_activations }
    }
}

/// What a model is loaded as. Sides that have it in common share their weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Model {
    /// What it runs in.
    pub dtype: DType,
    /// What its weights are quantised to, if they are not as they are stored.
    pub weights: Option<Mixture>,
    /// Whether inputs of products are rounded to 8 bits.
    pub q8_activations: bool,
}

impl Model {
    /// In a dtype, with the weights as they are stored.
    pub fn new(dtype: DType) -> Self {
        Self { dtype, weights: None, q8_activations: false }
    }

    /// Calls `f` with the checkpoint, with its weights quantised if this model's are.
    ///
    /// # Errors
    /// Weights that are quantised already; those of `f`.
    pub(crate) fn of<R>(
        self,
        checkpoint: &Checkpoint,
        f: impl FnOnce(&Checkpoint) -> Result<R>,
    ) -> Result<R> {
        match self.weights {
            Some(mixture) => f(&checkpoint.quantised(mixture)?),
            None => f(checkpoint),
        }
    }
}

/// Two sides: ways of computing a model, or anything else of which there are two to be compared.
/// Figures say how far b is from a.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Sides<S = Side> {
    /// The reference.
    pub a: S,
    /// What is compared with it.
    pub b: S,
}

impl Sides {
    /// The noise floor: two sides that differ by rounding alone. `side` in the next wider type,
    /// which hardly rounds (f32 for a half type, f64 for f32), and in `dtype`.
    ///
    /// # Errors
    /// [`Error::NoFloor`] for f64, of which there is nothing wider, and for anything that is no
    /// floating-point type.
    pub fn floor(side: Side, dtype: DType) -> Result<Self> {
        let wide = match dtype {
            DType::BF16 | DType::F16 => DType::F32,
            DType::F32 => DType::F64,
            other => return Err(Error::NoFloor(other)),
        };
        Ok(Self { a: Side { dtype: wide, ..side }, b: Side { dtype, ..side } })
    }
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
        write!(f, " in {}", self.model())
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.dtype.as_str())?;
        let weights = self.weights.map(|mixture| format!("weights in {mixture}"));
        let inputs = self.q8_activations.then(|| "activations in Q8".to_string());
        let both: Vec<_> = weights.into_iter().chain(inputs).collect();
        if both.is_empty() { Ok(()) } else { write!(f, " with {}", both.join(" and ")) }
    }
}

/// The floating-point dtypes that a model runs in.
pub(super) const DTYPES: [DType; 4] = [DType::F64, DType::F32, DType::BF16, DType::F16];

/// The dtype of a name, of those in [`DTYPES`].
pub(super) fn float(name: &str) -> Option<DType> {
    DTYPES.into_iter().find(|dtype| dtype.as_str() == name)
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
    fn json_is_by_name() {
        for (name, rounding) in Rounding::names() {
            let json = serde_json::to_string(&rounding).unwrap();
            assert_eq!(json, format!("\"{}\"", rounding.name()));
            assert_eq!(serde_json::from_str::<Rounding>(&format!("\"{name}\"")).unwrap(), rounding);
        }
        assert!(serde_json::from_str::<Rounding>("\"torch\"").is_err());
    }
}
