//! The types that weights come in.

use candle_core::DType;
use candle_core::quantized::GgmlDType;
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
    /// 8.5 bits each, in blocks of 32.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 6.6 bits each, in blocks of 256.
    #[serde(rename = "q6_k")]
    Q6K,
    /// 5.5 bits each, in blocks of 256.
    #[serde(rename = "q5_k")]
    Q5K,
    /// 4.5 bits each, in blocks of 256.
    #[serde(rename = "q4_k")]
    Q4K,
    /// 4.5 bits each, in blocks of 32.
    #[serde(rename = "q4_0")]
    Q4_0,
}

impl Weights {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::F32, Self::Bf16, Self::Q8_0, Self::Q6K, Self::Q5K, Self::Q4K, Self::Q4_0];

    /// Those that are not quantised.
    pub const FLOATS: [Self; 2] = [Self::F32, Self::Bf16];

    /// The type of the input, and of weights that are not quantised.
    pub fn dtype(self) -> DType {
        match self {
            Self::Bf16 => DType::BF16,
            _ => DType::F32,
        }
    }

    /// The type of blocks, if they are quantised.
    pub fn blocks(self) -> Option<GgmlDType> {
        match self {
            Self::F32 | Self::Bf16 => None,
            Self::Q8_0 => Some(GgmlDType::Q8_0),
            Self::Q6K => Some(GgmlDType::Q6K),
            Self::Q5K => Some(GgmlDType::Q5K),
            Self::Q4K => Some(GgmlDType::Q4K),
            Self::Q4_0 => Some(GgmlDType::Q4_0),
        }
    }

    /// Bytes that each takes, in a file.
    pub fn bytes(self) -> f64 {
        match self.blocks() {
            Some(kind) => kind.type_size() as f64 / kind.block_size() as f64,
            None => self.dtype().size_in_bytes() as f64,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q6K => "q6_k",
            Self::Q5K => "q5_k",
            Self::Q4K => "q4_k",
            Self::Q4_0 => "q4_0",
        }
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Weights {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|weights| weights.to_string() == name);
        let all = || Self::ALL.map(Self::name).join(", ");
        found.ok_or_else(|| Error::Input(format!("no weights of '{name}'; accepted: {}", all())))
    }
}
