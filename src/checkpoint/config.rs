//! `config.json`: which family it is, and what the MLP and the layer before it look like.

use super::activation::{Resolved, resolve_activation};
use super::attention::{AttentionConfig, RopeParameters, RopeScaling};
use crate::{Activation, Error, Result};
use serde::{Deserialize, Serialize};
use std::{fmt, path::Path};

/// The families whose MLP is the plain gated block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "&'static str")]
pub enum Family {
    /// Gemma 1, CodeGemma, and the text part of PaliGemma 1.
    Gemma,
    /// Gemma 2, ShieldGemma 1, and the text part of PaliGemma 2.
    Gemma2,
    /// Gemma 3 text and multimodal, EmbeddingGemma, MedGemma, ShieldGemma 2.
    Gemma3,
    /// VaultGemma: Gemma 2 without the norms behind attention and MLP.
    VaultGemma,
    /// T5Gemma: Gemma 2 layers as an encoder and a decoder.
    T5Gemma,
    /// RecurrentGemma (Griffin): biases in the MLP, recurrent layers between attention layers.
    RecurrentGemma,
}

impl From<Family> for &'static str {
    fn from(family: Family) -> Self {
        match family {
            Family::Gemma => "Gemma 1",
            Family::Gemma2 => "Gemma 2",
            Family::Gemma3 => "Gemma 3",
            Family::VaultGemma => "VaultGemma",
            Family::T5Gemma => "T5Gemma",
            Family::RecurrentGemma => "RecurrentGemma",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str((*self).into())
    }
}

/// What a checkpoint's `config.json` says, resolved and checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The family of the text part.
    pub family: Family,
    /// `model_type` as the file has it (`gemma3`, `paligemma`, …).
    pub model_type: String,
    /// The stacks of layers: one, or T5Gemma's encoder and decoder.
    pub stacks: Vec<Stack>,
}

/// One stack of like layers.
#[derive(Debug, Clone)]
pub struct Stack {
    /// Empty, or the stack's name in the file: `encoder`, `decoder`.
    pub name: &'static str,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width between up and down. RecurrentGemma's config counts gate and up together; this is
    /// one of them.
    pub intermediate_size: usize,
    /// How many layers there are.
    pub num_hidden_layers: usize,
    /// `rms_norm_eps` of all norms.
    pub rms_norm_eps: f64,
    /// The MLP's activation, and why.
    pub activation: Resolved<Activation>,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// The attention of every layer, or the sentence why it is not computed.
    pub attention: std::result::Result<AttentionConfig, String>,
    /// The fields that the file leaves out, with the family's default that stands in.
    pub defaults: Vec<String>,
}

/// The fields that are read, in the Hub's spelling and in that of transformers 5.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawConfig {
    model_type: Option<String>,
    text_config: Option<Box<RawConfig>>,
    encoder: Option<Box<RawConfig>>,
    decoder: Option<Box<RawConfig>>,

    hidden_act: Option<String>,
    hidden_activation: Option<String>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    rms_norm_eps: Option<f64>,

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
    #[serde(alias = "_sliding_window_pattern")]
    pub(super) sliding_window_pattern: Option<usize>,
    pub(super) use_bidirectional_attention: Option<bool>,
    pub(super) rope_theta: Option<f64>,
    pub(super) rope_local_base_freq: Option<f64>,
    pub(super) rope_scaling: Option<RopeScaling>,
    pub(super) rope_parameters: Option<RopeParameters>,
}

impl Config {
    /// Reads the text of a `config.json`; `path` is for messages only.
    ///
    /// # Errors
    /// Malformed JSON, a model that is not covered, an unknown activation, impossible sizes.
    pub fn parse(json: &str, path: &Path) -> Result<Self> {
        // A field given twice would be an error of serde's; both spellings of the pattern occur.
        let value: serde_json::Value = super::parse_json(json, path)?;
        let raw = RawConfig::from_value(value).map_err(|e| malformed(path, e))?;
        let model_type = raw.model_type.clone().ok_or_else(|| {
            malformed(
                path,
                "no \"model_type\"; is this the config.json of a transformers checkpoint?",
            )
        })?;
        let unsupported = |reason: String| Error::UnsupportedModel { path: path.into(), reason };
        let text = raw.text_config.as_deref().unwrap_or(&raw);
        let text_type = text.model_type.as_deref().unwrap_or(default_text_type(&model_type));
        let family = family(&model_type, text_type).map_err(unsupported)?;
        let parts = match family {
            Family::T5Gemma => {
                vec![("encoder", raw.encoder.as_deref()), ("decoder", raw.decoder.as_deref())]
            }
            _ => vec![("", Some(text))],
        };
        let stacks = parts
            .into_iter()
            .map(|(name, part)| {
                let part = part.ok_or_else(|| malformed(path, format!("no \"{name}\"")))?;
                stack(family, name, part, &model_type, path)
            })
            .collect::<Result<_>>()?;
        Ok(Self { family, model_type, stacks })
    }
}

impl RawConfig {
    fn from_value(mut value: serde_json::Value) -> serde_json::Result<Self> {
        // transformers writes "sliding_window_pattern" and "_sliding_window_pattern" side by side.
        fn drop_twin(value: &mut serde_json::Value) {
            if let Some(object) = value.as_object_mut() {
                if object.contains_key("sliding_window_pattern") {
                    object.remove("_sliding_window_pattern");
                }
                object.values_mut().for_each(drop_twin);
            }
        }
        drop_twin(&mut value);
        serde_json::from_value(value)
    }
}

/// `Some` for a field that is there, be it null.
fn present<'de, D: serde::Deserializer<'de>>(
    field: D,
) -> std::result::Result<Option<Option<f64>>, D::Error> {
    Deserialize::deserialize(field).map(Some)
}

fn malformed(path: &Path, reason: impl fmt::Display) -> Error {
    Error::Json { path: path.into(), reason: reason.to_string() }
}

/// The `model_type` of a text part that does not name its own.
fn default_text_type(model_type: &str) -> &str {
    match model_type {
        "paligemma" => "gemma",
        "gemma3" | "shieldgemma2" => "gemma3_text",
        own => own,
    }
}

/// The family, or the sentence why the model is not covered.
fn family(model_type: &str, text_type: &str) -> std::result::Result<Family, String> {
    let not_covered =
        |what: &str| Err(format!("model_type \"{model_type}\" is not covered: {what}"));
    match (model_type, text_type) {
        ("gemma3n" | "gemma3n_text", _) => not_covered(
            "Gemma 3n's MLP zeroes most activations (activation_sparsity_pattern) before the product",
        ),
        (m, _) if m.starts_with("gemma4") => not_covered(
            "Gemma 4 has mixture-of-experts and double-wide MLPs, which the plain gated block is not",
        ),
        (m, _)
            if m.starts_with("t5gemma2") || m == "embedding_gemma2" || m == "diffusion_gemma" =>
        {
            not_covered("its layers have not been checked against the reference yet")
        }
        ("t5gemma", _) => Ok(Family::T5Gemma),
        ("recurrent_gemma", _) => Ok(Family::RecurrentGemma),
        ("vaultgemma", _) => Ok(Family::VaultGemma),
        ("gemma" | "paligemma", "gemma") => Ok(Family::Gemma),
        ("gemma2" | "paligemma", "gemma2") => Ok(Family::Gemma2),
        ("gemma3" | "gemma3_text" | "shieldgemma2", "gemma3_text") => Ok(Family::Gemma3),
        _ => not_covered(
            "the MLP of Gemma 1, 2 and 3, PaliGemma, VaultGemma, T5Gemma and RecurrentGemma is",
        ),
    }
}

/// Sizes beyond these are errors in the file. The largest Gemma (27B) has 5,376, 36,864 and 62.
const MAX_WIDTH: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 12;

fn stack(
    family: Family,
    name: &'static str,
    raw: &RawConfig,
    model_type: &str,
    path: &Path,
) -> Result<Stack> {
    let mut fields = Fields { defaults: vec![], path };
    // Defaults as in transformers' configuration_*.py: what older Hub files leave out.
    let (hidden, intermediate, layers) = match family {
        Family::Gemma => (3072, 24576, 28),
        Family::RecurrentGemma => (2560, 3 * 2560, 26),
        _ => (2304, 9216, 26),
    };
    let hidden_size = fields.size("hidden_size", raw.hidden_size, hidden, MAX_WIDTH)?;
    let intermediate =
        fields.size("intermediate_size", raw.intermediate_size, intermediate, MAX_WIDTH)?;
    let num_hidden_layers =
        fields.size("num_hidden_layers", raw.num_hidden_layers, layers, MAX_LAYERS)?;
    let rms_norm_eps = fields.or_default("rms_norm_eps", raw.rms_norm_eps, 1e-6);
    if !(rms_norm_eps > 0.0 && rms_norm_eps.is_finite()) {
        return Err(malformed(
            path,
            format!("rms_norm_eps is {rms_norm_eps}; it must be positive"),
        ));
    }
    let recurrent = family == Family::RecurrentGemma;
    if recurrent && intermediate % 2 == 1 {
        let reason = format!("intermediate_size is {intermediate}; RecurrentGemma's must be even");
        return Err(malformed(path, reason));
    }
    let activation =
        resolve_activation(family, raw.hidden_act.as_deref(), raw.hidden_activation.as_deref())
            .map_err(|source| Error::Activation { path: path.into(), source })?;
    let attention = match (family, model_type) {
        (Family::RecurrentGemma, _) => Err("RecurrentGemma's first layer is recurrent".to_string()),
        (Family::T5Gemma, _) => Err("T5Gemma's encoder is not part of the model here".to_string()),
        (_, "paligemma") => {
            Err("PaliGemma's text attends to an image, which is not read".to_string())
        }
        _ => AttentionConfig::resolve(family, raw, num_hidden_layers, &mut fields),
    };
    Ok(Stack {
        name,
        hidden_size,
        // RecurrentGemmaMlp: self.intermediate_size = config.intermediate_size // 2.
        intermediate_size: if recurrent { intermediate / 2 } else { intermediate },
        num_hidden_layers,
        rms_norm_eps,
        activation,
        mlp_bias: recurrent,
        attention,
        defaults: fields.defaults,
    })
}

/// Takes fields or their defaults, and remembers which.
pub(super) struct Fields<'a> {
    defaults: Vec<String>,
    path: &'a Path,
}

impl Fields<'_> {
    pub(super) fn or_default<T: fmt::Debug>(
        &mut self,
        name: &str,
        value: Option<T>,
        default: T,
    ) -> T {
        value.unwrap_or_else(|| {
            let note = format!("{name} = {default:?}");
            if !self.defaults.contains(&note) {
                self.defaults.push(note);
            }
            default
        })
    }

    fn size(
        &mut self,
        name: &str,
        value: Option<usize>,
        default: usize,
        max: usize,
    ) -> Result<usize> {
        let value = self.or_default(name, value, default);
        if value == 0 || value > max {
            return Err(malformed(self.path, format!("{name} is {value}; it must be 1 to {max}")));
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Config> {
        Config::parse(json, Path::new("config.json"))
    }

    #[test]
    fn families_and_their_wrappers() {
        for (json, family) in [
            (r#"{"model_type": "gemma"}"#, Family::Gemma),
            (r#"{"model_type": "gemma2"}"#, Family::Gemma2),
            (r#"{"model_type": "gemma3_text"}"#, Family::Gemma3),
            (r#"{"model_type": "gemma3", "text_config": {"hidden_size": 8}}"#, Family::Gemma3),
            (r#"{"model_type": "shieldgemma2", "text_config": {}}"#, Family::Gemma3),
            (
                r#"{"model_type": "paligemma", "text_config": {"model_type": "gemma2"}}"#,
                Family::Gemma2,
            ),
            (r#"{"model_type": "paligemma", "text_config": {}}"#, Family::Gemma),
            (r#"{"model_type": "vaultgemma"}"#, Family::VaultGemma),
            (r#"{"model_type": "recurrent_gemma"}"#, Family::RecurrentGemma),
            (r#"{"model_type": "t5gemma", "encoder": {}, "decoder": {}}"#, Family::T5Gemma),
        ] {
            assert_eq!(parse(json).unwrap().family, family, "{json}");
        }
    }

    #[test]
    fn what_is_not_covered_says_why() {
        for (model_type, why) in [
            ("gemma3n", "activation_sparsity_pattern"),
            ("gemma3n_text", "activation_sparsity_pattern"),
            ("gemma4", "mixture-of-experts"),
            ("gemma4_text", "double-wide"),
            ("t5gemma2", "not been checked"),
            ("llama", "\"llama\" is not covered"),
        ] {
            let e = parse(&format!(r#"{{"model_type": "{model_type}"}}"#)).unwrap_err();
            assert!(
                matches!(&e, Error::UnsupportedModel { reason, .. } if reason.contains(why)),
                "{e}"
            );
        }
    }

    #[test]
    fn sizes_stacks_and_defaults() {
        let config = parse(
            r#"{"model_type": "t5gemma", "encoder": {"hidden_size": 8}, "decoder": {"hidden_size": 16}}"#,
        )
        .unwrap();
        let names: Vec<_> = config.stacks.iter().map(|s| (s.name, s.hidden_size)).collect();
        assert_eq!(names, [("encoder", 8), ("decoder", 16)]);
        let recurrent =
            parse(r#"{"model_type": "recurrent_gemma", "intermediate_size": 80}"#).unwrap();
        assert!(recurrent.stacks[0].mlp_bias && recurrent.stacks[0].intermediate_size == 40);
        assert!(recurrent.stacks[0].defaults.contains(&"hidden_size = 2560".to_string()));
    }

    #[test]
    fn nonsense_is_refused() {
        for json in [
            "",
            "[]",
            r#"{"hidden_size": 8}"#,
            r#"{"model_type": "gemma", "hidden_size": 0}"#,
            r#"{"model_type": "gemma", "hidden_size": -1}"#,
            r#"{"model_type": "gemma", "hidden_size": 18446744073709551615}"#,
            r#"{"model_type": "gemma", "rms_norm_eps": -1.0}"#,
            r#"{"model_type": "recurrent_gemma", "intermediate_size": 81}"#,
            r#"{"model_type": "t5gemma", "encoder": {}}"#,
            r#"{"model_type": "gemma", "hidden_activation": "mish"}"#,
        ] {
            assert!(parse(json).unwrap_err().is_input(), "{json}");
        }
    }
}
