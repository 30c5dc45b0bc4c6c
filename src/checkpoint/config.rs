//! `config.json`: which family it is, and what the MLP and the layer before it look like.

use super::activation::{Resolved, resolve_activation};
use super::attention::AttentionConfig;
use super::defaults::Defaults;
use super::family::Family;
use super::json::parse_json;
use super::limits::{MAX_LAYERS, MAX_VOCAB, MAX_WIDTH};
use super::raw::RawConfig;
use crate::error::{Error, Result};
use crate::kernels::activation::Activation;
use std::{fmt, path::Path};

/// What a checkpoint's `config.json` says, resolved and checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The family of the text part.
    pub family: Family,
    /// `model_type` as the file has it (`gemma3`, `paligemma`, …).
    pub model_type: String,
    /// The stacks of layers: one, or T5Gemma's encoder and decoder.
    pub stacks: Vec<Stack>,
    /// The id with which every text begins.
    pub bos_token_id: u32,
    /// The ids that end a text.
    pub eos_token_ids: Vec<u32>,
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
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Whether the head is the embedding, and why; bidirectional encoders have none.
    pub tied_head: Resolved<bool>,
    /// `cap·tanh(logits/cap)` on the logits (Gemma 2, VaultGemma).
    pub final_softcap: Option<f64>,
    /// The attention of every layer, or the sentence why it is not computed.
    pub attention: std::result::Result<AttentionConfig, String>,
    /// The fields that the file leaves out, with the family's default that stands in.
    pub defaults: Vec<String>,
}

impl Config {
    /// Reads the text of a `config.json`; `path` is for messages only.
    ///
    /// # Errors
    /// Malformed JSON, a model that is not covered, an unknown activation, impossible sizes.
    pub fn parse(json: &str, path: &Path) -> Result<Self> {
        let raw: RawConfig = parse_json(json, path)?;
        let model_type = raw.model_type.clone().ok_or_else(|| {
            malformed(
                path,
                "no \"model_type\"; is this the config.json of a transformers checkpoint?",
            )
        })?;
        let unsupported = |reason: String| Error::UnsupportedModel { path: path.into(), reason };
        let text = raw.text_config.as_deref().unwrap_or(&raw);
        let text_type = text.model_type.as_deref();
        let family = Family::detect(&model_type, text_type).map_err(unsupported)?;
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
        let eos = text.eos_token_id.as_ref().or(raw.eos_token_id.as_ref());
        let eos_token_ids = eos.map_or(vec![EOS], |ids| ids.to_vec());
        let bos_token_id = text.bos_token_id.or(raw.bos_token_id).unwrap_or(BOS);
        Ok(Self { family, model_type, stacks, bos_token_id, eos_token_ids })
    }
}

/// `<eos>` and `<bos>` of every Gemma tokenizer.
const EOS: u32 = 1;
const BOS: u32 = 2;

fn malformed(path: &Path, reason: impl fmt::Display) -> Error {
    Error::Json { path: path.into(), reason: reason.to_string() }
}

fn tied_head(field: Option<bool>) -> Resolved<bool> {
    let reason = match field {
        Some(tied) => format!("tie_word_embeddings says {tied}"),
        None => "tie_word_embeddings is not set; every family's default is true".to_string(),
    };
    Resolved { value: field.unwrap_or(true), reason }
}

fn stack(
    family: Family,
    name: &'static str,
    raw: &RawConfig,
    model_type: &str,
    path: &Path,
) -> Result<Stack> {
    let mut defaults = Defaults::default();
    let mut or_default =
        |name, value, default, max| size(name, defaults.or(name, value, default), max, path);
    // Defaults as in transformers' configuration_*.py: what older Hub files leave out.
    let (hidden, intermediate, layers) = match family {
        Family::Gemma => (3072, 24576, 28),
        Family::RecurrentGemma => (2560, 3 * 2560, 26),
        _ => (2304, 9216, 26),
    };
    let hidden_size = or_default("hidden_size", raw.hidden_size, hidden, MAX_WIDTH)?;
    let intermediate =
        or_default("intermediate_size", raw.intermediate_size, intermediate, MAX_WIDTH)?;
    let num_hidden_layers =
        or_default("num_hidden_layers", raw.num_hidden_layers, layers, MAX_LAYERS)?;
    let rms_norm_eps = defaults.or("rms_norm_eps", raw.rms_norm_eps, 1e-6);
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
    // In Gemma 1 it is no field that transformers reads.
    let softcap = match family {
        Family::Gemma => None,
        Family::Gemma3 => raw.final_logit_softcapping.flatten(),
        _ => defaults.or("final_logit_softcapping", raw.final_logit_softcapping, Some(30.0)),
    };
    if softcap.is_some_and(|cap| cap.is_nan() || cap <= 0.0) {
        let reason = format!("final_logit_softcapping is {softcap:?}; it must be positive");
        return Err(malformed(path, reason));
    }
    let vocab = if family == Family::Gemma3 { 262_208 } else { 256_000 };
    let vocab = defaults.or("vocab_size", raw.vocab_size, vocab);
    let activation =
        resolve_activation(family, raw.hidden_act.as_deref(), raw.hidden_activation.as_deref())
            .map_err(|source| Error::Activation { path: path.into(), source })?;
    let attention = match (family, model_type) {
        (Family::RecurrentGemma, _) => Err("RecurrentGemma's first layer is recurrent".to_string()),
        (Family::T5Gemma, _) => Err("T5Gemma's encoder is not part of the model here".to_string()),
        (_, "paligemma") => {
            Err("PaliGemma's text attends to an image, which is not read".to_string())
        }
        _ => AttentionConfig::resolve(family, raw, num_hidden_layers, &mut defaults),
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
        vocab_size: size("vocab_size", vocab, MAX_VOCAB, path)?,
        tied_head: tied_head(raw.tie_word_embeddings),
        final_softcap: softcap,
        attention,
        defaults: defaults.used,
    })
}

fn size(name: &str, value: usize, max: usize, path: &Path) -> Result<usize> {
    if (1..=max).contains(&value) {
        Ok(value)
    } else {
        Err(malformed(path, format!("{name} is {value}; it must be 1 to {max}")))
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
