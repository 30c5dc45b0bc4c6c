//! `config.json`: which family it is, and what the MLP and the layer before it look like.

use super::activation::{Resolved, resolve_activation};
use super::attention::AttentionConfig;
use super::defaults::Defaults;
use super::families::{Family, Model, NormNames};
use super::json::parse_json;
use super::limits::{MAX_LAYERS, MAX_VOCAB, MAX_WIDTH};
use super::raw::RawConfig;
use super::remark::{Remark, RemarkKind};
use crate::error::{Error, Result, Unsupported};
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
    /// What in it is not used, was guessed, or is odd.
    pub remarks: Vec<Remark>,
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
    /// What each of its layers calls its norms.
    pub norms: NormNames,
    /// The MLP's activation, and why.
    pub activation: Resolved<Activation>,
    /// Whether the MLP's projections have biases.
    pub mlp_bias: bool,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// The longest text that it was made for, in tokens, if the file says so.
    pub max_position_embeddings: Option<usize>,
    /// Whether the head is the embedding, and why; bidirectional encoders have none.
    pub tied_head: Resolved<bool>,
    /// `cap·tanh(logits/cap)` on the logits (Gemma 2, VaultGemma).
    pub final_softcap: Option<f64>,
    /// The attention of every layer, or the sentence why it is not computed.
    pub attention: std::result::Result<AttentionConfig, Unsupported>,
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
        let (family, model) = Family::detect(&model_type, text_type).map_err(unsupported)?;
        let stacks = family.profile().stacks.iter().map(|&name| {
            let part = match name {
                "encoder" => raw.encoder.as_deref(),
                "decoder" => raw.decoder.as_deref(),
                _ => Some(text),
            };
            let part = part.ok_or_else(|| malformed(path, format!("no \"{name}\"")))?;
            stack(family, model, name, part, path)
        });
        let stacks: Vec<_> = stacks.collect::<Result<_>>()?;
        let eos = text.eos_token_id.as_ref().or(raw.eos_token_id.as_ref());
        let eos_token_ids = eos.map_or(vec![EOS], |ids| ids.to_vec());
        let bos_token_id = text.bos_token_id.or(raw.bos_token_id).unwrap_or(BOS);
        let remarks = stacks.iter().filter_map(untrained_activation).collect();
        Ok(Self { family, model_type, stacks, bos_token_id, eos_token_ids, remarks })
    }
}

/// `<eos>` and `<bos>` of every Gemma tokenizer.
const EOS: u32 = 1;
const BOS: u32 = 2;

fn malformed(path: &Path, reason: impl fmt::Display) -> Error {
    Error::Json { path: path.into(), reason: reason.to_string() }
}

fn untrained_activation(stack: &Stack) -> Option<Remark> {
    let Resolved { value, reason } = &stack.activation;
    (*value != Activation::TANH).then(|| {
        let text = format!(
            "the config asks for {value}, but every Gemma was trained with tanh ({reason})"
        );
        Remark::warning(RemarkKind::Unusual, text)
    })
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
    model: &Model,
    name: &'static str,
    raw: &RawConfig,
    path: &Path,
) -> Result<Stack> {
    let profile = family.profile();
    let mut defaults = Defaults::default();
    let mut or_default =
        |name, value, default, max| size(name, defaults.or(name, value, default), max, path);
    let sizes = &profile.sizes;
    let hidden_size = or_default("hidden_size", raw.hidden_size, sizes.hidden_size, MAX_WIDTH)?;
    let intermediate = (raw.intermediate_size, sizes.intermediate_size);
    let intermediate = or_default("intermediate_size", intermediate.0, intermediate.1, MAX_WIDTH)?;
    let layers = (raw.num_hidden_layers, sizes.num_hidden_layers);
    let num_hidden_layers = or_default("num_hidden_layers", layers.0, layers.1, MAX_LAYERS)?;
    let rms_norm_eps = defaults.or("rms_norm_eps", raw.rms_norm_eps, 1e-6);
    if !(rms_norm_eps > 0.0 && rms_norm_eps.is_finite()) {
        return Err(malformed(
            path,
            format!("rms_norm_eps is {rms_norm_eps}; it must be positive"),
        ));
    }
    let counts_both = profile.mlp.counts_gate_and_up;
    if counts_both && intermediate % 2 == 1 {
        let reason = format!("intermediate_size is {intermediate}; {family}'s must be even");
        return Err(malformed(path, reason));
    }
    let cap = raw.final_logit_softcapping;
    let final_softcap = profile
        .final_softcap
        .resolve("final_logit_softcapping", cap, &mut defaults)
        .map_err(|reason| malformed(path, reason))?;
    let vocab = defaults.or("vocab_size", raw.vocab_size, sizes.vocab_size);
    let activation =
        resolve_activation(family, raw.hidden_act.as_deref(), raw.hidden_activation.as_deref())
            .map_err(|source| Error::Activation { path: path.into(), source })?;
    let attention = match (&profile.attention, model.incomplete) {
        (&Err(reason), _) | (_, Some(reason)) => Err(reason.to_string()),
        (Ok(attention), None) => {
            AttentionConfig::resolve(family, attention, raw, num_hidden_layers, &mut defaults)
        }
    };
    Ok(Stack {
        name,
        hidden_size,
        intermediate_size: if counts_both { intermediate / 2 } else { intermediate },
        num_hidden_layers,
        rms_norm_eps,
        norms: profile.norms,
        activation,
        mlp_bias: profile.mlp.bias,
        vocab_size: size("vocab_size", vocab, MAX_VOCAB, path)?,
        max_position_embeddings: raw.max_position_embeddings,
        tied_head: tied_head(raw.tie_word_embeddings),
        final_softcap,
        attention: attention.map_err(Unsupported),
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
            (r#"{"model_type": "gemma"}"#, "Gemma 1"),
            (r#"{"model_type": "gemma2"}"#, "Gemma 2"),
            (r#"{"model_type": "gemma3_text"}"#, "Gemma 3"),
            (r#"{"model_type": "gemma3", "text_config": {"hidden_size": 8}}"#, "Gemma 3"),
            (r#"{"model_type": "shieldgemma2", "text_config": {}}"#, "Gemma 3"),
            (r#"{"model_type": "paligemma", "text_config": {"model_type": "gemma2"}}"#, "Gemma 2"),
            (r#"{"model_type": "paligemma", "text_config": {}}"#, "Gemma 1"),
            (r#"{"model_type": "vaultgemma"}"#, "VaultGemma"),
            (r#"{"model_type": "recurrent_gemma"}"#, "RecurrentGemma"),
            (r#"{"model_type": "t5gemma", "encoder": {}, "decoder": {}}"#, "T5Gemma"),
        ] {
            assert_eq!(parse(json).unwrap().family.name(), family, "{json}");
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
