//! Which weight is quantised to what: llama.cpp's recipes.

use super::tensors::Storage;
use candle_core::quantized::GgmlDType;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A mixture of quantised types, as `llama-quantize` makes it without an importance matrix
/// (llama.cpp's `src/llama-quant.cpp`, `llama_tensor_get_type`).
///
/// Its name says what most matrices are stored in. The head gets more bits, and so do values and the last step of the MLP
/// in some layers of the `M` mixtures. Rows that are no whole blocks of 256 get a type in blocks of 32; those of no blocks
/// at all are rounded to f16. Norms, routers and the small matrices of Gemma 3n stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Mixture {
    /// 8.5 bits a weight.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 6.6 bits.
    #[serde(rename = "q6_k")]
    Q6K,
    /// 5.5 bits, and 6.6 where it pays.
    #[serde(rename = "q5_k_m")]
    Q5KM,
    /// 5.5 bits.
    #[serde(rename = "q5_k_s")]
    Q5KS,
    /// 5.5 bits, in blocks of 32.
    #[serde(rename = "q5_0")]
    Q5_0,
    /// 4.5 bits, and 6.6 where it pays: the usual choice.
    #[serde(rename = "q4_k_m")]
    Q4KM,
    /// 4.5 bits, and 5.5 where it pays.
    #[serde(rename = "q4_k_s")]
    Q4KS,
    /// 4.5 bits, in blocks of 32.
    #[serde(rename = "q4_0")]
    Q4_0,
}

impl Mixture {
    /// All of them, from the most bits to the fewest.
    pub const ALL: [Self; 8] = [
        Self::Q8_0,
        Self::Q6K,
        Self::Q5KM,
        Self::Q5KS,
        Self::Q5_0,
        Self::Q4KM,
        Self::Q4KS,
        Self::Q4_0,
    ];

    /// As in files' names: `Q4_K_M`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "Q8_0",
            Self::Q6K => "Q6_K",
            Self::Q5KM => "Q5_K_M",
            Self::Q5KS => "Q5_K_S",
            Self::Q5_0 => "Q5_0",
            Self::Q4KM => "Q4_K_M",
            Self::Q4KS => "Q4_K_S",
            Self::Q4_0 => "Q4_0",
        }
    }

    /// The one of a name, in capitals or not.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mixture| mixture.name().eq_ignore_ascii_case(name))
    }

    /// What most matrices are stored in.
    fn kind(self) -> GgmlDType {
        match self {
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q6K => GgmlDType::Q6K,
            Self::Q5KM | Self::Q5KS => GgmlDType::Q5K,
            Self::Q5_0 => GgmlDType::Q5_0,
            Self::Q4KM | Self::Q4KS => GgmlDType::Q4K,
            Self::Q4_0 => GgmlDType::Q4_0,
        }
    }

    /// What it makes of a model's weights, by name; those that stay as they are are left out.
    pub(super) fn of<'a>(
        self,
        tensors: impl Iterator<Item = (&'a str, &'a [usize])>,
    ) -> BTreeMap<String, Storage> {
        let all: Vec<_> = tensors.collect();
        let tied = !all.iter().any(|(name, _)| role(name) == Some(Role::Head));
        let layers = |stack: &str| {
            let of_stack =
                all.iter().filter_map(|(name, _)| layer(name)).filter(|(s, _)| *s == stack);
            of_stack.map(|(_, layer)| layer + 1).max().unwrap_or(0)
        };
        // Values count by themselves: in some layers keys are values.
        let mut values: Vec<_> = all
            .iter()
            .filter(|(name, _)| role(name) == Some(Role::Values))
            .filter_map(|(name, _)| layer(name))
            .collect();
        values.sort_unstable();
        let kinds = all.iter().filter_map(|&(name, shape)| {
            let (&columns, 2..=3) = (shape.last()?, shape.len()) else { return None };
            let own = self.kind();
            let kind = match role(name)? {
                Role::Head => of_head(own, columns),
                Role::Embedding if tied => of_head(own, columns),
                Role::Values => {
                    let place = layer(name)?;
                    let of_stack = || values.iter().filter(|(stack, _)| *stack == place.0);
                    let before = of_stack().filter(|(_, layer)| *layer < place.1).count();
                    self.of_layer(before, of_stack().count(), 4)
                }
                Role::Down => {
                    let (stack, layer) = layer(name)?;
                    let layers = layers(stack);
                    self.of_layer(layer, layers, layers / 8)
                }
                Role::Embedding | Role::Other => own,
            };
            Some((name.into(), fitting(kind, columns)))
        });
        kinds.collect()
    }

    /// Of what gets more bits in some of so many layers; in the `S` mixture of 4 bits in the first `few`.
    fn of_layer(self, layer: usize, layers: usize, few: usize) -> GgmlDType {
        let eighth = layers / 8;
        let more = layer < eighth
            || layer >= 7 * layers / 8
            || (layer as isize - eighth as isize) % 3 == 2;
        match self {
            Self::Q5KM | Self::Q4KM if more => GgmlDType::Q6K,
            Self::Q4KS if layer < few => GgmlDType::Q5K,
            _ => self.kind(),
        }
    }
}

/// A matrix that more than its name's type depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Head,
    Embedding,
    Values,
    Down,
    Other,
}

/// What a weight is, by its name in transformers; `None` of one that is not quantised.
fn role(name: &str) -> Option<Role> {
    const KEPT: [&str; 7] =
        ["norm", "router.", "altup", "laurel", "per_layer_model_projection", "conv", "rg_lru"];
    let part = name.strip_suffix(".weight").unwrap_or(name);
    let (_, last) = part.rsplit_once('.').unwrap_or(("", part));
    let is_matrix = name.ends_with(".weight") || part.contains(".experts.");
    if !is_matrix || KEPT.iter().any(|kept| name.contains(kept)) {
        return None;
    }
    Some(match last {
        "lm_head" => Role::Head,
        "embed_tokens" | "embed_tokens_per_layer" => Role::Embedding,
        "v_proj" | "qkv_proj" => Role::Values,
        "down_proj" => Role::Down,
        _ => Role::Other,
    })
}

/// The stack that a tensor belongs to, and the layer in there.
fn layer(name: &str) -> Option<(&str, usize)> {
    let (stack, rest) = name.split_once("layers.")?;
    Some((stack, rest.split('.').next()?.parse().ok()?))
}

/// Of a head, and of an embedding that is one.
fn of_head(own: GgmlDType, columns: usize) -> GgmlDType {
    match own {
        GgmlDType::Q8_0 => own,
        _ if !columns.is_multiple_of(own.block_size()) => GgmlDType::Q8_0,
        _ => GgmlDType::Q6K,
    }
}

/// A type that rows of so many columns are whole blocks of.
fn fitting(kind: GgmlDType, columns: usize) -> Storage {
    let fits = |kind: GgmlDType| columns.is_multiple_of(kind.block_size());
    let other = match kind {
        _ if fits(kind) => return Storage::Blocks(kind),
        GgmlDType::Q4K => GgmlDType::Q5_0,
        GgmlDType::Q5K => GgmlDType::Q5_1,
        GgmlDType::Q6K => GgmlDType::Q8_0,
        other => other,
    };
    if fits(other) { Storage::Blocks(other) } else { Storage::Numbers(Dtype::F16) }
}

/// As in files' names: `Q4_K_M`.
impl fmt::Display for Mixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
