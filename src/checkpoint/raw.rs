//! The fields of `config.json` as they stand there, in both spellings that are in use.

use serde::Deserialize;
use std::collections::HashMap;

/// The fields that are read, in the Hub's spelling and in that of transformers 5.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawConfig {
    pub(super) model_type: Option<String>,
    pub(super) text_config: Option<Box<RawConfig>>,
    pub(super) encoder: Option<Box<RawConfig>>,
    pub(super) decoder: Option<Box<RawConfig>>,

    pub(super) hidden_act: Option<String>,
    pub(super) hidden_activation: Option<String>,
    pub(super) hidden_size: Option<usize>,
    pub(super) intermediate_size: Option<usize>,
    pub(super) num_hidden_layers: Option<usize>,
    pub(super) rms_norm_eps: Option<f64>,
    pub(super) vocab_size: Option<usize>,
    pub(super) max_position_embeddings: Option<usize>,
    pub(super) tie_word_embeddings: Option<bool>,
    /// Absent means the family's default, null means none.
    #[serde(deserialize_with = "present")]
    pub(super) final_logit_softcapping: Option<Option<f64>>,
    pub(super) bos_token_id: Option<u32>,
    pub(super) eos_token_id: Option<OneOrMany>,

    pub(super) attention_bias: Option<bool>,
    pub(super) num_attention_heads: Option<usize>,
    pub(super) num_key_value_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    pub(super) query_pre_attn_scalar: Option<f64>,
    /// Absent means the family's default, null means none.
    #[serde(deserialize_with = "present")]
    pub(super) attn_logit_softcapping: Option<Option<f64>>,
    pub(super) sliding_window: Option<usize>,
    pub(super) layer_types: Option<Vec<String>>,
    /// Every how many layers one has full attention. The `_sliding_window_pattern` of newer files
    /// is not read: transformers does not read it either, and `layer_types` stands beside it.
    pub(super) sliding_window_pattern: Option<usize>,
    pub(super) use_bidirectional_attention: Option<bool>,
    pub(super) rope_theta: Option<f64>,
    pub(super) rope_local_base_freq: Option<f64>,
    pub(super) rope_scaling: Option<RopeScaling>,
    pub(super) rope_parameters: Option<RopeParameters>,
}

/// `Some` for a field that is there, be it null.
fn present<'de, D: serde::Deserializer<'de>>(
    field: D,
) -> std::result::Result<Option<Option<f64>>, D::Error> {
    Deserialize::deserialize(field).map(Some)
}

/// An id or a list of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

impl OneOrMany {
    pub(super) fn to_vec(&self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![*id],
            Self::Many(ids) => ids.clone(),
        }
    }
}

/// `rope_scaling` of the Hub's files, and a leaf of transformers 5's `rope_parameters`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct RopeScaling {
    rope_type: Option<String>,
    /// The older spelling; transformers 4 writes both.
    r#type: Option<String>,
    pub(super) factor: Option<f64>,
    pub(super) rope_theta: Option<f64>,
}

impl RopeScaling {
    /// `default`, `linear`, …
    pub(super) fn rope_type(&self) -> Option<&str> {
        self.rope_type.as_deref().or(self.r#type.as_deref())
    }
}

/// transformers 5: one set of parameters, or one per layer type.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum RopeParameters {
    PerLayerType(HashMap<LayerType, Option<RopeScaling>>),
    One(RopeScaling),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub(super) enum LayerType {
    #[serde(rename = "sliding_attention")]
    Sliding,
    #[serde(rename = "full_attention")]
    Full,
}
