//! The types that weights come in.

use candle_core::DType;
use gemma_mlp::{Error, Result};
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// The type of weights and input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// Four bytes each.
    F32,
    /// Two bytes each.
    Bf16,
}

impl Weights {
    /// Both.
    pub const ALL: [Self; 2] = [Self::F32, Self::Bf16];

    /// The type as candle calls it.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
        }
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.dtype().as_str())
    }
}

impl FromStr for Weights {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|weights| weights.to_string() == name);
        found.ok_or_else(|| Error::Input(format!("no weights of '{name}'; accepted: f32, bf16")))
    }
}
