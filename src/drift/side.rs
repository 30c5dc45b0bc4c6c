//! One way of computing the model.

use crate::activation::Activation;
use crate::error::{Error, Result};
use candle_core::DType;
use serde::Serialize;
use std::fmt;

/// One way of computing the model: an activation in a dtype.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Side {
    /// What stands in the gate.
    pub activation: Activation,
    /// The dtype of weights, input and everything in between.
    #[serde(serialize_with = "dtype_name")]
    pub dtype: DType,
}

/// Two sides. Figures say how far b is from a.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sides {
    /// The reference.
    pub a: Side,
    /// What is compared with it.
    pub b: Side,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.activation, self.dtype.as_str())
    }
}

/// The pair whose difference is rounding alone: `activation` in the next wider type that hardly
/// rounds (f32 for a half type, f64 for f32), and in `dtype`.
///
/// # Errors
/// f64, of which there is nothing wider, and anything that is no floating-point type.
pub fn floor_sides(activation: Activation, dtype: DType) -> Result<Sides> {
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
    Ok(Sides { a: Side { activation, dtype: wide }, b: Side { activation, dtype } })
}

fn dtype_name<S: serde::Serializer>(
    dtype: &DType,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(dtype.as_str())
}
