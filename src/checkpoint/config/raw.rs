//! The fields of `config.json` as they stand there, in every spelling that is in use.
//!
//! A file is read in passes that each keep little: first what kind of model it is, so that one that is not covered is
//! named before any other field is typed; then by what it is quantised, for the same reason; then the fields; then the
//! keys that nobody reads.

use super::limits::MAX_LAYERS;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// Of what model a file is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::checkpoint) struct RawModelType {
    pub(in crate::checkpoint) model_type: Option<String>,
}

/// What kind of file it is.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::checkpoint) struct RawKind {
    #[serde(deserialize_with = "bounded")]
    pub(in crate::checkpoint) architectures: Vec<String>,
    pub(in crate::checkpoint) text_config: Option<RawTextKind>,
    /// An adapter's config, or one of another kind of file.
    pub(in crate::checkpoint) peft_type: Option<String>,
}

/// The text part's kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::checkpoint) struct RawTextKind {
    pub(in crate::checkpoint) model_type: Option<String>,
}

/// The fields that are read, in the Hub's spelling and in that of transformers 5.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::checkpoint) struct RawConfig {
    pub(in crate::checkpoint) text_config: Option<Box<RawConfig>>,
    pub(in crate::checkpoint) encoder: Option<Box<RawConfig>>,
    pub(in crate::checkpoint) decoder: Option<Box<RawConfig>>,

    /// The id that ends an image, which has an embedding of its own.
    pub(in crate::checkpoint) eoi_token_index: Option<u32>,
    pub(in crate::checkpoint) eoi_token_id: Option<u32>,

    pub(in crate::checkpoint) hidden_act: Option<String>,
    pub(in crate::checkpoint) hidden_activation: Option<String>,
    pub(in crate::checkpoint) hidden_size: Option<usize>,
    /// One for all layers, or a list of one for each.
    #[serde(deserialize_with = "one_or_many_sizes")]
    pub(in crate::checkpoint) intermediate_size: Option<Vec<usize>>,
    pub(in crate::checkpoint) num_hidden_layers: Option<usize>,
    pub(in crate::checkpoint) rms_norm_eps: Option<f64>,
    pub(in crate::checkpoint) vocab_size: Option<usize>,
    pub(in crate::checkpoint) max_position_embeddings: Option<usize>,
    pub(in crate::checkpoint) tie_word_embeddings: Option<bool>,
    /// Absent means the family's default, null means none.
    #[serde(deserialize_with = "present")]
    pub(in crate::checkpoint) final_logit_softcapping: Option<Option<f64>>,
    pub(in crate::checkpoint) bos_token_id: Option<u32>,
    #[serde(deserialize_with = "one_or_many")]
    pub(in crate::checkpoint) eos_token_id: Vec<u32>,

    pub(in crate::checkpoint) attention_bias: Option<bool>,
    pub(in crate::checkpoint) num_attention_heads: Option<usize>,
    pub(in crate::checkpoint) num_key_value_heads: Option<usize>,
    pub(in crate::checkpoint) head_dim: Option<usize>,
    pub(in crate::checkpoint) query_pre_attn_scalar: Option<f64>,
    /// Absent means the family's default, null means none.
    #[serde(deserialize_with = "present")]
    pub(in crate::checkpoint) attn_logit_softcapping: Option<Option<f64>>,
    /// Absent means the family's default, null that nothing slides.
    #[serde(deserialize_with = "present")]
    pub(in crate::checkpoint) sliding_window: Option<Option<usize>>,
    #[serde(deserialize_with = "some_bounded")]
    pub(in crate::checkpoint) layer_types: Option<Vec<LayerType>>,
    /// Every how many layers one has full attention. The `_sliding_window_pattern` of newer files
    /// is not read: transformers does not read it either, and `layer_types` stands beside it.
    pub(in crate::checkpoint) sliding_window_pattern: Option<usize>,
    pub(in crate::checkpoint) use_bidirectional_attention: Option<RawBidirectional>,
    pub(in crate::checkpoint) partial_rotary_factor: Option<f64>,
    pub(in crate::checkpoint) rope_theta: Option<f64>,
    pub(in crate::checkpoint) rope_local_base_freq: Option<f64>,
    pub(in crate::checkpoint) rope_scaling: Option<RawRope>,
    pub(in crate::checkpoint) rope_parameters: Option<RawRopeParameters>,

    pub(in crate::checkpoint) attention_k_eq_v: Option<bool>,
    pub(in crate::checkpoint) global_head_dim: Option<usize>,
    pub(in crate::checkpoint) num_global_key_value_heads: Option<usize>,
    /// What differs in some layers, by their index.
    #[serde(deserialize_with = "by_layer")]
    pub(in crate::checkpoint) per_layer_config: Option<BTreeMap<usize, RawLayer>>,
    pub(in crate::checkpoint) num_kv_shared_layers: Option<usize>,

    pub(in crate::checkpoint) use_double_wide_mlp: Option<bool>,
    /// One fraction for all layers, or a list of one for each.
    pub(in crate::checkpoint) activation_sparsity_pattern: Option<RawFractions>,
    pub(in crate::checkpoint) enable_moe_block: Option<bool>,
    pub(in crate::checkpoint) num_experts: Option<usize>,
    pub(in crate::checkpoint) top_k_experts: Option<usize>,
    pub(in crate::checkpoint) moe_intermediate_size: Option<usize>,

    pub(in crate::checkpoint) hidden_size_per_layer_input: Option<usize>,
    pub(in crate::checkpoint) vocab_size_per_layer_input: Option<usize>,
    pub(in crate::checkpoint) altup_num_inputs: Option<usize>,
    pub(in crate::checkpoint) altup_active_idx: Option<usize>,
    pub(in crate::checkpoint) altup_coef_clip: Option<f64>,
    pub(in crate::checkpoint) altup_correct_scale: Option<bool>,
    pub(in crate::checkpoint) laurel_rank: Option<usize>,

    /// RecurrentGemma's name for `sliding_window`.
    #[serde(deserialize_with = "present")]
    pub(in crate::checkpoint) attention_window_size: Option<Option<usize>>,
    /// RecurrentGemma's name for `final_logit_softcapping`.
    #[serde(deserialize_with = "present")]
    pub(in crate::checkpoint) logits_soft_cap: Option<Option<f64>>,
    #[serde(deserialize_with = "some_bounded")]
    pub(in crate::checkpoint) block_types: Option<Vec<RawBlockType>>,
    /// What transformers 4 writes of it.
    #[serde(rename = "_block_types", deserialize_with = "some_bounded")]
    pub(in crate::checkpoint) older_block_types: Option<Vec<RawBlockType>>,
    pub(in crate::checkpoint) lru_width: Option<usize>,
    pub(in crate::checkpoint) conv1d_width: Option<usize>,
    pub(in crate::checkpoint) embedding_dim: Option<usize>,
}

impl RawConfig {
    /// The id that ends an image, in either spelling.
    pub(in crate::checkpoint) fn end_of_image(&self) -> Option<u32> {
        self.eoi_token_index.or(self.eoi_token_id)
    }
}

/// What `per_layer_config` of transformers 5 has for one layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::checkpoint) struct RawLayer {
    pub(in crate::checkpoint) head_dim: Option<usize>,
    pub(in crate::checkpoint) num_key_value_heads: Option<usize>,
    /// The first of the other keys, if there are any.
    pub(in crate::checkpoint) other: Option<String>,
}

impl<'de> Deserialize<'de> for RawLayer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LayerVisitor;
        impl<'de> Visitor<'de> for LayerVisitor {
            type Value = RawLayer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of what differs in a layer")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawLayer, A::Error> {
                let mut layer = RawLayer::default();
                while let Some(key) = map.next_key::<String>()? {
                    match &key[..] {
                        "head_dim" => layer.head_dim = map.next_value()?,
                        "num_key_value_heads" => layer.num_key_value_heads = map.next_value()?,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            layer.other.get_or_insert(key);
                        }
                    }
                }
                Ok(layer)
            }
        }
        deserializer.deserialize_map(LayerVisitor)
    }
}

/// `use_bidirectional_attention`: EmbeddingGemma's is a bool, Gemma 4's names what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(in crate::checkpoint) enum RawBidirectional {
    Bool(bool),
    Of(String),
}

/// A fraction for all layers, or one for each.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub(in crate::checkpoint) enum RawFractions {
    All(f64),
    Each(#[serde(deserialize_with = "bounded")] Vec<f64>),
}

/// `rope_scaling` of the Hub's files, and one set of transformers 5's `rope_parameters`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(in crate::checkpoint) struct RawRope {
    rope_type: Option<String>,
    /// The older spelling; transformers 4 writes both.
    r#type: Option<String>,
    pub(in crate::checkpoint) factor: Option<f64>,
    pub(in crate::checkpoint) rope_theta: Option<f64>,
    pub(in crate::checkpoint) partial_rotary_factor: Option<f64>,
}

impl RawRope {
    /// `default`, `linear`, …
    pub(in crate::checkpoint) fn rope_type(&self) -> Option<&str> {
        self.rope_type.as_deref().or(self.r#type.as_deref())
    }
}

/// transformers 5's `rope_parameters`: one set by layer type, or one set, or, out of converters, both.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(in crate::checkpoint) struct RawRopeParameters {
    pub(in crate::checkpoint) full_attention: Option<RawRope>,
    pub(in crate::checkpoint) sliding_attention: Option<RawRope>,
    rope_type: Option<String>,
    r#type: Option<String>,
    factor: Option<f64>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

impl RawRopeParameters {
    /// What stands beside the layer types.
    pub(in crate::checkpoint) fn shared(&self) -> RawRope {
        RawRope {
            rope_type: self.rope_type.clone(),
            r#type: self.r#type.clone(),
            factor: self.factor,
            rope_theta: self.rope_theta,
            partial_rotary_factor: self.partial_rotary_factor,
        }
    }
}

/// What a layer's attention sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::checkpoint) enum LayerType {
    Sliding,
    Full,
    Other(String),
}

impl<'de> Deserialize<'de> for LayerType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match String::deserialize(deserializer)? {
            name if name == "sliding_attention" => Self::Sliding,
            name if name == "full_attention" => Self::Full,
            name => Self::Other(name),
        })
    }
}

/// By what a layer mixes tokens, in RecurrentGemma's configs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::checkpoint) enum RawBlockType {
    Recurrent,
    Attention,
    #[serde(untagged)]
    Other(String),
}

/// The file with the settings of generation, which has end tokens of its own.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::checkpoint) struct RawGeneration {
    #[serde(deserialize_with = "one_or_many")]
    pub(in crate::checkpoint) eos_token_id: Vec<u32>,
}

/// `Some` for a field that is there, be it null.
pub(super) fn present<'de, D, T>(field: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Deserialize::deserialize(field).map(Some)
}

/// A list that is no longer than the layers of a model may be, so that no file makes us hold more.
fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>>(field: D) -> Result<Vec<T>, D::Error> {
    Ok(some_bounded(field)?.unwrap_or_default())
}

fn some_bounded<'de, D, T>(field: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    field.deserialize_any(ListVisitor { one: |_| None, items: PhantomData })
}

/// An id, a list of them, or null.
fn one_or_many<'de, D: Deserializer<'de>>(field: D) -> Result<Vec<u32>, D::Error> {
    let one = |id: u64| u32::try_from(id).ok();
    Ok(field.deserialize_any(ListVisitor { one, items: PhantomData })?.unwrap_or_default())
}

/// A size, a list of them, or null.
fn one_or_many_sizes<'de, D: Deserializer<'de>>(field: D) -> Result<Option<Vec<usize>>, D::Error> {
    let one = |size: u64| usize::try_from(size).ok();
    field.deserialize_any(ListVisitor { one, items: PhantomData })
}

/// A map from layers, whose numbers transformers pads with zeros to one width ("05").
fn by_layer<'de, D>(field: D) -> Result<Option<BTreeMap<usize, RawLayer>>, D::Error>
where
    D: Deserializer<'de>,
{
    struct ByLayer;
    impl<'de> Visitor<'de> for ByLayer {
        type Value = Option<BTreeMap<usize, RawLayer>>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an object of at most {MAX_LAYERS} layers, by their number")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut layers = BTreeMap::new();
            while let Some(key) = map.next_key::<String>()? {
                let Ok(layer) = key.parse::<usize>() else {
                    return Err(A::Error::invalid_value(
                        Unexpected::Str(&key),
                        &"a layer's number",
                    ));
                };
                if layers.len() == MAX_LAYERS {
                    return Err(A::Error::invalid_length(MAX_LAYERS + 1, &self));
                }
                if layers.insert(layer, map.next_value::<RawLayer>()?).is_some() {
                    return Err(A::Error::custom(format!("layer {layer} is there twice")));
                }
            }
            Ok(Some(layers))
        }
    }
    field.deserialize_any(ByLayer)
}

/// Reads lists, and single numbers of which `one` makes an item.
struct ListVisitor<T, F> {
    one: F,
    items: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>, F: Fn(u64) -> Option<T>> Visitor<'de> for ListVisitor<T, F> {
    type Value = Option<Vec<T>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX_LAYERS} items")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Self::Value, E> {
        let item = (self.one)(number)
            .ok_or_else(|| E::invalid_type(serde::de::Unexpected::Unsigned(number), &self))?;
        Ok(Some(vec![item]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = vec![];
        while let Some(item) = list.next_element()? {
            if items.len() == MAX_LAYERS {
                return Err(A::Error::invalid_length(MAX_LAYERS + 1, &self));
            }
            items.push(item);
        }
        Ok(Some(items))
    }
}

/// The keys of an object whose values say something: none that is null, false or empty.
#[derive(Debug, Default)]
pub(in crate::checkpoint) struct Keys(pub(super) Vec<String>);

/// Keys beyond these are not kept: no config has half as many.
const MAX_KEYS: usize = 1024;

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeysVisitor;
        impl<'de> Visitor<'de> for KeysVisitor {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = vec![];
                while let Some(key) = map.next_key::<String>()? {
                    let Says(says) = map.next_value()?;
                    if says && keys.len() < MAX_KEYS {
                        keys.push(key);
                    }
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(KeysVisitor)
    }
}

/// Whether a value is neither null nor false nor empty.
struct Says(bool);

impl<'de> Deserialize<'de> for Says {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SaysVisitor;
        impl<'de> Visitor<'de> for SaysVisitor {
            type Value = Says;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Says, E> {
                Ok(Says(false))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Says, E> {
                Ok(Says(value))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Says, E> {
                Ok(Says(true))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Says, E> {
                Ok(Says(true))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Says, E> {
                Ok(Says(true))
            }

            fn visit_str<E>(self, text: &str) -> Result<Says, E> {
                Ok(Says(!text.is_empty()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Says, A::Error> {
                let mut says = false;
                while list.next_element::<IgnoredAny>()?.is_some() {
                    says = true;
                }
                Ok(Says(says))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Says, A::Error> {
                let mut says = false;
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                    says = true;
                }
                Ok(Says(says))
            }
        }
        deserializer.deserialize_any(SaysVisitor)
    }
}

/// The keys of a config's text part, and of the parts of an encoder-decoder.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::checkpoint) struct PartKeys {
    pub(in crate::checkpoint) text_config: Option<Keys>,
    pub(in crate::checkpoint) encoder: Option<Keys>,
    pub(in crate::checkpoint) decoder: Option<Keys>,
}

/// The keys of the text part of an encoder that has others (T5Gemma 2).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::checkpoint) struct EncoderKeys {
    pub(in crate::checkpoint) encoder: Option<PartKeys>,
}
