//! `config.json`: which family it is, and what the MLP and the layer before it look like.

pub(super) mod activation;
pub(super) mod attention;
pub(super) mod feed_forward;
pub(super) mod head;
mod keys;
pub(super) mod limits;
pub(super) mod prefix;
pub(super) mod quantization;
pub(super) mod raw;
pub(super) mod recurrent;
pub(super) mod rope;
pub(super) mod stack;
pub(super) mod unusual;

use super::families::{Bidirectional, Cross, EncoderDecoderProfile, Family};
use super::json::{malformed, parse_json};
use super::remark::{Remark, RemarkKind};
use crate::error::{Error, Result};
use crate::kernels::activation::Activation;
use activation::Resolved;
use attention::CrossAttentionConfig;
use head::HeadKind;
use prefix::Prefix;
use quantization::Quantization;
use raw::{RawConfig, RawKind, RawModelType};
use stack::{DECODER, ENCODER, Stack, stack};
use std::path::Path;

/// What a checkpoint's `config.json` says, resolved and checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The family of the text part.
    pub family: Family,
    /// `model_type` as the file has it (`gemma3`, `paligemma`, …).
    pub model_type: String,
    /// The stacks of layers: one, or an encoder's and a decoder's.
    pub stacks: Vec<Stack>,
    /// The id with which every text begins.
    pub bos_token_id: u32,
    /// The ids that end a text: of every level of the file, and of `generation_config.json`.
    pub eos_token_ids: Vec<u32>,
    /// By what the weights are quantised, if the file says that they are.
    pub quantization: Option<Quantization>,
    /// What in it is not used, was guessed, or is odd.
    pub remarks: Vec<Remark>,
}

impl Config {
    /// Reads the text of a `config.json`; `path` is for messages only.
    ///
    /// # Errors
    /// Malformed JSON, a model that is not covered, an unknown activation, impossible sizes.
    pub fn parse(json: &str, path: &Path) -> Result<Self> {
        // What it is comes first: the fields of another model may have other types.
        let RawModelType { model_type } = parse_json(json, path)?;
        if let Some(model_type) = &model_type {
            let unsupported = |reason| Error::UnsupportedModel { path: path.into(), reason };
            Family::covers(model_type).map_err(unsupported)?;
        }
        let quantization = Quantization::parse(json, path)?;
        let config = Self::parse_fields(json, path, model_type);
        let mut config =
            config.map_err(|e| e.quantised(quantization.as_ref().map(Quantization::said)))?;
        config.quantization = quantization;
        Ok(config)
    }

    fn parse_fields(json: &str, path: &Path, model_type: Option<String>) -> Result<Self> {
        let kind: RawKind = parse_json(json, path)?;
        let model_type = model_type.ok_or_else(|| no_model_type(&kind, path))?;
        let unsupported = |reason: String| Error::UnsupportedModel { path: path.into(), reason };
        let text_type = kind.text_config.as_ref().and_then(|text| text.model_type.as_deref());
        let (family, model) = Family::detect(&model_type, text_type).map_err(unsupported)?;
        let raw: RawConfig = parse_json(json, path)?;
        let text = raw.text_config.as_deref().unwrap_or(&raw);
        let mut remarks = vec![];
        if model.model_type != model.text_type && raw.text_config.is_none() {
            if raw.hidden_size.is_none() {
                let reason =
                    format!("model_type is \"{model_type}\", and there is no \"text_config\"");
                return Err(malformed(path, reason));
            }
            remarks.push(Remark::note(
                RemarkKind::Chosen,
                format!("config.json has no text_config, which model_type \"{model_type}\" has: the fields at its top are read"),
            ));
        }
        let (mut stacks, encoder) = (vec![], raw.encoder.as_deref());
        for &name in family.profile().stacks {
            let part = match name {
                // T5Gemma 2's encoder has images beside its text.
                ENCODER => encoder.map(|part| part.text_config.as_deref().unwrap_or(part)),
                DECODER => raw.decoder.as_deref(),
                _ => Some(text),
            };
            let part = part.ok_or_else(|| malformed(path, format!("no \"{name}\"")))?;
            let (mut stack, notes) = stack(family, model, name, part, path)?;
            let ties = [raw.tie_word_embeddings, part.tie_word_embeddings];
            let bidirectional = family.profile().attention.as_ref().map(|own| own.bidirectional);
            let predicts = stack.attention.as_ref().map_or(true, |attention| attention.causal)
                || bidirectional.is_ok_and(Bidirectional::has_head);
            stack.head = HeadKind::of_config(predicts, &kind.architectures, ties, &mut remarks);
            stack.may_be_tied = ties == [None; 2] || ties.contains(&Some(true));
            remarks.extend(notes);
            remarks.extend(untrained_activation(&stack));
            // Two stacks often have one and the same to say.
            for remark in unusual::remarks(family, &stack) {
                if !remarks.contains(&remark) {
                    remarks.push(remark);
                }
            }
            let prefix = stack.attention.as_ref().ok().and_then(|attention| attention.prefix);
            remarks.extend(prefix.map(Prefix::remark));
            stacks.push(stack);
        }
        if let (Some(profile), [encoder, decoder]) =
            (&family.profile().encoder_decoder, &mut stacks[..])
        {
            let end_of_image = raw.encoder.as_deref().and_then(RawConfig::end_of_image);
            join(profile, encoder, decoder, end_of_image)
                .map_err(|reason| malformed(path, reason))?;
        }
        let text = raw.decoder.as_deref().unwrap_or(text);
        remarks.extend(other_architecture(&model_type, family, &kind.architectures));
        remarks.extend(keys::unread(json, path, family)?);
        let mut eos_token_ids = vec![];
        for &id in text.eos_token_id.iter().chain(&raw.eos_token_id) {
            if !eos_token_ids.contains(&id) {
                eos_token_ids.push(id);
            }
        }
        if eos_token_ids.is_empty() {
            eos_token_ids.push(EOS);
        }
        let bos_token_id = text.bos_token_id.or(raw.bos_token_id).unwrap_or(BOS);
        if bos_token_id != BOS {
            let text =
                format!("bos_token_id is {bos_token_id}; that of every released Gemma is {BOS}");
            remarks.push(Remark::warning(RemarkKind::Unusual, text));
        }
        Ok(Self {
            family,
            model_type,
            stacks,
            bos_token_id,
            eos_token_ids,
            quantization: None,
            remarks,
        })
    }
}

impl Config {
    /// The stack that predicts tokens, where there are two; else the only one.
    ///
    /// # Panics
    /// Without any stack, which no parsed config is.
    pub fn decoder(&self) -> &Stack {
        &self.stacks[self.stacks.len() - 1]
    }

    /// The encoder beside the decoder, in families that have one.
    pub fn encoder(&self) -> Option<&Stack> {
        self.stacks.first().filter(|_| self.stacks.len() > 1)
    }
}

/// What an encoder and a decoder are to one another; or the sentence why they do not fit.
fn join(
    profile: &EncoderDecoderProfile,
    encoder: &mut Stack,
    decoder: &mut Stack,
    end_of_image: Option<u32>,
) -> std::result::Result<(), String> {
    let (widths, rows) =
        ([encoder.hidden_size, decoder.hidden_size], [encoder.vocab_size, decoder.vocab_size]);
    if profile.cross == Cross::Merged && widths[0] != widths[1] {
        return Err(format!(
            "hidden_size is {} in the encoder and {} in the decoder, which project states with the same matrices: it \
             must be one size",
            widths[0], widths[1]
        ));
    }
    if profile.one_embedding && rows[0] != rows[1] {
        return Err(format!(
            "vocab_size is {} in the encoder and {} in the decoder, which share one table: it must be one size",
            rows[0], rows[1]
        ));
    }
    for stack in [&mut *encoder, &mut *decoder] {
        stack.end_of_image = profile.end_of_image.map(|default| end_of_image.unwrap_or(default));
    }
    if let Ok(attention) = &mut decoder.attention {
        let hidden_size = encoder.hidden_size;
        attention.cross = Some(CrossAttentionConfig { kind: profile.cross, hidden_size });
    }
    Ok(())
}

/// `<eos>` and `<bos>` of every Gemma tokenizer.
const EOS: u32 = 1;
const BOS: u32 = 2;

/// An architecture that is not the model type's own: `Gemma2ForCausalLM` beside `gemma3_text`, or code of one's own.
fn other_architecture(
    model_type: &str,
    family: Family,
    architectures: &[String],
) -> Option<Remark> {
    let own = model_type.trim_end_matches("_text").replace('_', "");
    let is_own = |name: &String| {
        let name = name.to_ascii_lowercase();
        let rest = name.strip_prefix(&own);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let other = architectures.iter().find(|name| !is_own(name))?;
    let text = format!(
        "architectures says {other} and model_type {model_type}: it is computed as {family}, and what the \
         architecture does otherwise is left out"
    );
    Some(Remark::warning(RemarkKind::Unused, text))
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

fn no_model_type(kind: &RawKind, path: &Path) -> Error {
    malformed(
        path,
        match &kind.peft_type {
            Some(peft) => format!(
                "the config of a {peft} adapter, which is no model by itself; merge it into its base model first"
            ),
            None => {
                "no \"model_type\"; is this the config.json of a transformers checkpoint?".into()
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::attention::AttentionConfig;
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
            (
                r#"{"model_type": "t5gemma2", "encoder": {"text_config": {}}, "decoder": {}}"#,
                "T5Gemma 2",
            ),
            (r#"{"model_type": "gemma3n", "text_config": {}}"#, "Gemma 3n"),
            (r#"{"model_type": "gemma4_text"}"#, "Gemma 4"),
            (r#"{"model_type": "gemma4_unified", "text_config": {}}"#, "Gemma 4 Unified"),
            (r#"{"model_type": "embedding_gemma2_text"}"#, "EmbeddingGemma 2"),
            (
                r#"{"model_type": "diffusion_gemma", "text_config": {"num_experts": 8, "top_k_experts": 2, "moe_intermediate_size": 8}}"#,
                "DiffusionGemma",
            ),
        ] {
            assert_eq!(parse(json).unwrap().family.name(), family, "{json}");
        }
    }

    #[test]
    fn what_is_not_covered_says_why() {
        for (model_type, why) in [
            ("gemma4_assistant", "it drafts for another Gemma 4"),
            ("gemma4_unified_assistant", "whose keys and values it reads"),
            ("colpali", "embeddings of pages"),
            ("pi0", "a robot's actions"),
            ("llama", "\"llama\" is not covered"),
            ("mixed", "covered are Gemma 1 to 4"),
        ] {
            // What it is comes first: the fields of another model may have other types.
            for fields in [
                "",
                r#", "text_config": 3, "architectures": "x", "layer_types": 7, "quantization_config": []"#,
            ] {
                let e = parse(&format!(r#"{{"model_type": "{model_type}"{fields}}}"#)).unwrap_err();
                assert!(
                    matches!(&e, Error::UnsupportedModel { reason, .. } if reason.contains(why)),
                    "{e}"
                );
            }
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

    /// Each stack has its own fields, the encoder's nested; windows of the encoder are T5Gemma's to each side, and T5Gemma
    /// 2's half to each side, of which an even one has one more behind.
    #[test]
    fn encoders_and_decoders() {
        let config = parse(
            r#"{"model_type": "t5gemma", "encoder": {"hidden_size": 8, "sliding_window": 5},
                "decoder": {"hidden_size": 16, "sliding_window": 7, "bos_token_id": 3, "eos_token_id": 9}}"#,
        )
        .unwrap();
        let attention = |stack: &Stack| stack.attention.clone().unwrap();
        let (encoder, decoder) =
            (attention(config.encoder().unwrap()), attention(config.decoder()));
        assert!(!encoder.causal && encoder.cross.is_none() && decoder.causal);
        let cross = CrossAttentionConfig { kind: Cross::SubLayer, hidden_size: 8 };
        assert_eq!(decoder.cross, Some(cross));
        let window = |attention: &AttentionConfig| attention.layers[0].sliding_window;
        assert_eq!((window(&encoder), window(&decoder)), (Some(6), Some(7)));
        assert_eq!((config.bos_token_id, config.eos_token_ids), (3, vec![9]));
        use HeadKind as Head;
        let heads = config.stacks.iter().map(|stack| stack.head.value);
        assert_eq!(heads.collect::<Vec<_>>(), [Head::None, Head::Embedding]);
        for (window, before, behind) in
            [(5, 3, None), (6, 3, Some(4)), (1, 1, None), (2, 1, Some(2))]
        {
            let config = parse(&format!(
                r#"{{"model_type": "t5gemma2", "decoder": {{}}, "encoder": {{"eoi_token_index": 60,
                    "text_config": {{"sliding_window": {window}}}}}}}"#
            ))
            .unwrap();
            let layer = attention(config.encoder().unwrap()).layers[0];
            let own = (layer.sliding_window, layer.sliding_window_behind);
            assert_eq!(own, (Some(before), behind), "{window}");
            assert_eq!(
                config.stacks.iter().map(|s| s.end_of_image).collect::<Vec<_>>(),
                [Some(60); 2]
            );
        }
        for (sizes, what) in [
            (r#""hidden_size": 8"#, "hidden_size is 8 in the encoder and 2304 in the decoder"),
            (r#""vocab_size": 8"#, "vocab_size is 8 in the encoder and 262208 in the decoder"),
        ] {
            let json = format!(
                r#"{{"model_type": "t5gemma2", "encoder": {{"text_config": {{{sizes}}}}}, "decoder": {{}}}}"#
            );
            let why = parse(&json).unwrap_err().to_string();
            assert!(why.contains(what), "{why}");
        }
    }

    /// A key that is not known is named wherever it stands.
    #[test]
    fn keys_of_a_nested_encoder() {
        let json = r#"{"model_type": "t5gemma2", "encoder": {"mm_tokens_per_image": 4, "text_config": {"new_gate": 2}},
            "decoder": {}}"#;
        let remarks = parse(json).unwrap().remarks;
        assert!(remarks.iter().any(|remark| remark.text.contains("encoder.text_config.new_gate")));
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
            r#"{"model_type": "gemma3"}"#,
            r#"{"model_type": "gemma3", "text_config": {"model_type": "gemma2"}}"#,
            r#"{"peft_type": "LORA", "base_model_name_or_path": "google/gemma-3-270m"}"#,
            r#"{"model_type": 3}"#,
            r#"{"model_type": "gemma", "intermediate_size": [8, 8]}"#,
            r#"{"model_type": "gemma4_text", "per_layer_config": {"30": {"head_dim": 8}}}"#,
            r#"{"model_type": "gemma4_text", "per_layer_config": {"5": {"sliding_window": 8}}}"#,
            r#"{"model_type": "gemma4_text", "per_layer_config": {"5": {"head_dim": 7}}}"#,
            r#"{"model_type": "gemma4_text", "per_layer_config": {"5": {"head_dim": 8}, "05": {"head_dim": 8}}}"#,
            r#"{"model_type": "gemma4_text", "per_layer_config": {"all": {"head_dim": 8}}}"#,
            r#"{"model_type": "gemma4_text", "per_layer_config": {"5": null}}"#,
            r#"{"model_type": "gemma4_text", "per_layer_config": [{"head_dim": 8}]}"#,
            r#"{"model_type": "gemma3_text", "per_layer_config": {"5": {"head_dim": 8}}}"#,
            r#"{"model_type": "gemma4_text", "global_head_dim": 18446744073709551614}"#,
            r#"{"model_type": "gemma4_text", "num_kv_shared_layers": 30}"#,
            r#"{"model_type": "gemma4_text", "num_kv_shared_layers": 18446744073709551615}"#,
            r#"{"model_type": "gemma4_text", "num_kv_shared_layers": 29, "layer_types": ["full_attention"]}"#,
            r#"{"model_type": "gemma4_text", "enable_moe_block": true}"#,
            r#"{"model_type": "gemma4_text", "enable_moe_block": true, "num_experts": 0, "top_k_experts": 1, "moe_intermediate_size": 8}"#,
            r#"{"model_type": "gemma4_text", "enable_moe_block": true, "num_experts": 4, "top_k_experts": 5, "moe_intermediate_size": 8}"#,
            r#"{"model_type": "gemma4_text", "enable_moe_block": true, "num_experts": 4, "top_k_experts": 0, "moe_intermediate_size": 8}"#,
            r#"{"model_type": "gemma4_text", "enable_moe_block": true, "num_experts": 4000000000, "top_k_experts": 2, "moe_intermediate_size": 8}"#,
            r#"{"model_type": "gemma4_text", "enable_moe_block": "yes"}"#,
            r#"{"model_type": "gemma4_text", "hidden_size_per_layer_input": 18446744073709551615}"#,
            r#"{"model_type": "gemma4_text", "hidden_size_per_layer_input": -1}"#,
            r#"{"model_type": "gemma4_text", "vocab_size_per_layer_input": 0}"#,
            r#"{"model_type": "gemma4_text", "vocab_size_per_layer_input": 8}"#,
            r#"{"model_type": "gemma4_text", "num_kv_shared_layers": 6, "per_layer_config": {"29": {"head_dim": 8}}}"#,
            r#"{"model_type": "gemma4_text", "use_double_wide_mlp": true, "num_kv_shared_layers": 1, "intermediate_size": 1048576}"#,
            r#"{"model_type": "gemma4_text", "rope_parameters": {"full_attention": {"partial_rotary_factor": -1}}}"#,
            r#"{"model_type": "gemma4_text", "rope_parameters": {"full_attention": {"factor": 0}}}"#,
            r#"{"model_type": "diffusion_gemma", "text_config": {}}"#,
            r#"{"model_type": "gemma3n_text", "intermediate_size": [8, 8]}"#,
            r#"{"model_type": "gemma3n_text", "intermediate_size": []}"#,
            r#"{"model_type": "gemma3n_text", "activation_sparsity_pattern": [0.5]}"#,
            r#"{"model_type": "gemma3n_text", "activation_sparsity_pattern": 1.0}"#,
            r#"{"model_type": "gemma3n_text", "activation_sparsity_pattern": 0.9999999999}"#,
            r#"{"model_type": "gemma3n_text", "activation_sparsity_pattern": 1e-320}"#,
            r#"{"model_type": "gemma3n_text", "activation_sparsity_pattern": "half"}"#,
            r#"{"model_type": "gemma3n_text", "altup_num_inputs": 0}"#,
            r#"{"model_type": "gemma3n_text", "altup_num_inputs": 1000000000}"#,
            r#"{"model_type": "gemma3n_text", "altup_active_idx": 4}"#,
            r#"{"model_type": "gemma3n_text", "altup_coef_clip": -1.0}"#,
            r#"{"model_type": "gemma3n_text", "laurel_rank": 0}"#,
            r#"{"model_type": "embedding_gemma2_text", "embedding_dim": 0}"#,
        ] {
            assert!(parse(json).unwrap_err().is_input(), "{json}");
        }
    }

    /// Of quantised files the method is named, whatever the types of their other fields.
    #[test]
    fn quantised_files_say_so_first() {
        for (method, named) in [
            (
                r#""quantization_config": {"quant_method": "gemma", "module_quant_configs": {".*": {"num_bits": 4}}}"#,
                "gemma",
            ),
            (
                r#""quantization_config": {"quant_method": "compressed-tensors"}"#,
                "compressed-tensors",
            ),
            (r#""quantization_config": {"quant_method": "gptq"}"#, "gptq, which is not read"),
            (r#""quantization_config": {"bits": 4}"#, "an unnamed method, which is not read"),
            (r#""quantization": {"group_size": 64, "bits": 4}"#, "mlx, which is not read"),
        ] {
            for fields in [
                r#""hidden_size": "8""#,
                r#""layer_types": 7, "eos_token_id": "x", "rope_parameters": []"#,
                r#""text_config": {"intermediate_size": [8, 8]}"#,
                r#""text_config": 3, "architectures": "x""#,
                r#""num_hidden_layers": 0"#,
            ] {
                let json = format!(r#"{{"model_type": "gemma4", {method}, {fields}}}"#);
                let e = parse(&json).unwrap_err();
                let said = format!("its weights are quantised by {named})");
                assert!(e.is_input() && e.to_string().contains(&said), "{e}");
            }
        }
    }

    #[test]
    fn a_text_part_may_stand_at_the_top() {
        let config = parse(r#"{"model_type": "gemma3", "hidden_size": 8}"#).unwrap();
        assert_eq!((config.family.name(), config.stacks[0].hidden_size), ("Gemma 3", 8));
        assert!(config.remarks.iter().any(|remark| remark.text.contains("no text_config")));
    }

    #[test]
    fn end_tokens_of_every_level() {
        for (json, ids) in [
            (r#"{"model_type": "gemma"}"#, vec![1]),
            (r#"{"model_type": "gemma", "eos_token_id": null}"#, vec![1]),
            (r#"{"model_type": "gemma", "eos_token_id": [1, 107, 1]}"#, vec![1, 107]),
            (
                r#"{"model_type": "gemma3", "eos_token_id": [1, 106], "text_config": {"eos_token_id": 5}}"#,
                vec![5, 1, 106],
            ),
        ] {
            assert_eq!(parse(json).unwrap().eos_token_ids, ids, "{json}");
        }
        let long = format!(r#"{{"model_type": "gemma", "eos_token_id": {:?}}}"#, vec![1; 5000]);
        assert!(parse(&long).is_err());
    }

    #[test]
    fn heads_that_configs_ask_for() {
        use HeadKind as Head;
        for (fields, head, remarks) in [
            ("", Head::Embedding, 0),
            (r#", "tie_word_embeddings": false"#, Head::Separate, 0),
            (
                r#", "tie_word_embeddings": false, "text_config": {"tie_word_embeddings": true}"#,
                Head::Separate,
                0,
            ),
            (r#", "text_config": {"tie_word_embeddings": false}"#, Head::Separate, 0),
            (r#", "architectures": ["Gemma3ForCausalLM"]"#, Head::Embedding, 0),
            (r#", "architectures": ["Gemma3ForConditionalGeneration"]"#, Head::Embedding, 0),
            (r#", "architectures": ["Gemma3TextModel"]"#, Head::Embedding, 1),
            (r#", "architectures": ["Gemma3ForSequenceClassification"]"#, Head::None, 1),
            (r#", "architectures": ["Gemma3RewardModel"]"#, Head::None, 1),
            (r#", "architectures": ["Gemma2ForCausalLM"]"#, Head::Embedding, 1),
            (r#", "architectures": ["GemmaForCausalLM"]"#, Head::Embedding, 1),
            (r#", "architectures": ["MyModelForCausalLM"]"#, Head::Embedding, 1),
        ] {
            let config = parse(&format!(
                r#"{{"model_type": "gemma3", "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
                    "num_attention_heads": 4, "num_key_value_heads": 1, "sliding_window": 512{fields}}}"#
            ));
            let config = config.unwrap();
            assert_eq!(config.stacks[0].head.value, head, "{fields}");
            let said = config.remarks.iter().filter(|r| r.text.contains("architectures")).count();
            assert_eq!(said, remarks, "{fields} {:?}", config.remarks);
        }
        for (model_type, architecture) in [
            ("shieldgemma2", "ShieldGemma2ForImageClassification"),
            ("gemma3_text", "Gemma3ForCausalLM"),
            ("recurrent_gemma", "RecurrentGemmaForCausalLM"),
        ] {
            let json = format!(
                r#"{{"model_type": "{model_type}", "architectures": ["{architecture}"], "hidden_size": 16,
                    "num_attention_heads": 4}}"#
            );
            let config = parse(&json).unwrap();
            assert_eq!(config.stacks[0].head.value, Head::Embedding, "{json}");
            assert!(!config.remarks.iter().any(|r| r.text.contains("architectures")), "{json}");
        }
    }

    /// Gemma 3 270M as it was released, and with one value changed.
    #[test]
    fn values_of_no_released_model() {
        let released = r#""hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
            "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 512,
            "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6, "hidden_activation": "gelu_pytorch_tanh""#;
        let remarks = |model_type: &str, field: &str| {
            let json = format!(r#"{{"model_type": "{model_type}", {released}{field}}}"#);
            let remarks = parse(&json).unwrap().remarks;
            remarks.into_iter().map(|remark| remark.text).collect::<Vec<_>>()
        };
        assert_eq!(remarks("gemma3_text", ""), [""; 0]);
        for (field, words) in [
            (r#""rope_theta": 1e4"#, "rope_theta is 10000.0; Gemma 3 270M has 1000000.0"),
            (r#""rope_local_base_freq": 1e6"#, "rope_local_base_freq"),
            (
                r#""rope_scaling": {"rope_type": "linear", "factor": 8.0}"#,
                "factor of rope_scaling is 8.0",
            ),
            (
                r#""final_logit_softcapping": 30.0"#,
                "final_logit_softcapping is 30.0; Gemma 3 270M has null",
            ),
            (r#""attention_bias": true"#, "attention_bias is true"),
            (r#""bos_token_id": 1"#, "bos_token_id is 1"),
            (r#""sliding_window_pattern": 2"#, "attention of layer 1 is full"),
            (r#""use_bidirectional_attention": true"#, "use_bidirectional_attention is true"),
        ] {
            let remarks = remarks("gemma3_text", &format!(", {field}"));
            assert!(remarks.len() == 1 && remarks[0].contains(words), "{field}: {remarks:?}");
        }
        for (from, to, words) in [
            (r#""query_pre_attn_scalar": 256"#, r#""query_pre_attn_scalar": 128"#, "1.414 times"),
            (r#""rms_norm_eps": 1e-6"#, r#""rms_norm_eps": 1e-5"#, "rms_norm_eps is 1e-5"),
            (r#""sliding_window": 512"#, r#""sliding_window": 4096"#, "sliding_window is 4096"),
            (r#""num_hidden_layers": 18"#, r#""num_hidden_layers": 12"#, "num_hidden_layers is 12"),
        ] {
            let json =
                format!(r#"{{"model_type": "gemma3_text", {}}}"#, released.replace(from, to));
            let remarks = parse(&json).unwrap().remarks;
            assert!(remarks.iter().any(|remark| remark.text.contains(words)), "{to}: {remarks:?}");
        }
        let other = remarks("gemma2", "");
        assert!(other.iter().any(|text| text.contains("the shape of Gemma 3 270M")), "{other:?}");
    }

    /// A Gemma 3n as it is on the Hub.
    fn gemma3n(hidden: usize, intermediate: usize, layers: usize, shared: usize) -> String {
        let sparsity: Vec<_> = (0..layers).map(|i| if i < 10 { 0.95 } else { 0.0 }).collect();
        let types = types(layers, 5);
        let widths = vec![intermediate; layers];
        format!(
            r#"{{"architectures": ["Gemma3nForConditionalGeneration"], "audio_config": {{"hidden_size": 1536}},
                "audio_soft_tokens_per_image": 188, "audio_token_id": 262273, "boa_token_id": 256000,
                "boi_token_id": 255999, "eoa_token_id": 262272, "eoi_token_id": 262144, "eos_token_id": [1, 106],
                "image_token_id": 262145, "initializer_range": 0.02, "model_type": "gemma3n",
                "text_config": {{"activation_sparsity_pattern": {sparsity:?}, "altup_active_idx": 0,
                  "altup_coef_clip": 120.0, "altup_correct_scale": true, "altup_num_inputs": 4,
                  "attention_bias": false, "attention_dropout": 0.0, "final_logit_softcapping": 30.0,
                  "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": {hidden},
                  "hidden_size_per_layer_input": 256, "initializer_range": 0.02, "intermediate_size": {widths:?},
                  "laurel_rank": 64, "layer_types": {types:?}, "max_position_embeddings": 32768,
                  "model_type": "gemma3n_text", "num_attention_heads": 8, "num_hidden_layers": {layers},
                  "num_key_value_heads": 2, "num_kv_shared_layers": {shared}, "rms_norm_eps": 1e-06,
                  "rope_local_base_freq": 10000.0, "rope_scaling": null, "rope_theta": 1000000.0,
                  "sliding_window": 512, "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 262400,
                  "vocab_size_per_layer_input": 262144}},
                "torch_dtype": "bfloat16", "transformers_version": "4.53.0.dev0",
                "vision_config": {{"architecture": "mobilenetv5_300m_enc"}}, "vision_soft_tokens_per_image": 256}}"#
        )
    }

    /// A Gemma 4 as it is on the Hub, with the fields in which they differ.
    fn gemma4(shape: [usize; 3], heads: [usize; 2], full_every: usize, fields: &str) -> String {
        let [hidden, intermediate, layers] = shape;
        let types = types(layers, full_every);
        format!(
            r#"{{"architectures": ["Gemma4ForConditionalGeneration"], "audio_config": null, "audio_token_id": 258881,
                "boa_token_id": 256000, "boi_token_id": 255999, "dtype": "bfloat16", "eoa_token_id": 258883,
                "eoa_token_index": 258883, "eoi_token_id": 258882, "eos_token_id": [1, 106],
                "image_token_id": 258880, "initializer_range": 0.02, "model_type": "gemma4",
                "text_config": {{"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 2,
                  "dtype": "bfloat16", "eos_token_id": 1, "final_logit_softcapping": 30.0, "global_head_dim": 512,
                  "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": {hidden},
                  "initializer_range": 0.02, "intermediate_size": {intermediate}, "layer_types": {types:?},
                  "max_position_embeddings": 131072, "model_type": "gemma4_text", "num_attention_heads": {},
                  "num_hidden_layers": {layers}, "num_key_value_heads": {}, "pad_token_id": 0, "rms_norm_eps": 1e-06,
                  "rope_parameters": {{
                    "full_attention": {{"partial_rotary_factor": 0.25, "rope_theta": 1000000.0, "rope_type": "proportional"}},
                    "sliding_attention": {{"rope_theta": 10000.0, "rope_type": "default"}}}},
                  "tie_word_embeddings": true, "use_cache": true, "vocab_size": 262144, {fields}}},
                "tie_word_embeddings": true, "transformers_version": "5.5.0.dev0", "video_token_id": 258884,
                "vision_config": {{"hidden_size": 768}}, "vision_soft_tokens_per_image": 280}}"#,
            heads[0], heads[1]
        )
    }

    fn types(layers: usize, full_every: usize) -> Vec<&'static str> {
        let full = |i: usize| (i + 1).is_multiple_of(full_every);
        (0..layers).map(|i| if full(i) { "full_attention" } else { "sliding_attention" }).collect()
    }

    /// Gemma 4 and 3n as they were released, and with one value changed.
    #[test]
    fn values_of_no_later_model() {
        let e2b = r#""num_global_key_value_heads": null, "sliding_window": 512, "num_kv_shared_layers": 20,
            "use_double_wide_mlp": true, "hidden_size_per_layer_input": 256"#;
        let e2b = gemma4([1536, 6144, 35], [8, 1], 5, e2b);
        let experts = r#""num_global_key_value_heads": 2, "sliding_window": 1024, "attention_k_eq_v": true,
            "hidden_size_per_layer_input": 0, "enable_moe_block": true, "num_experts": 128, "top_k_experts": 8,
            "moe_intermediate_size": 704"#;
        let experts = gemma4([2816, 2112, 30], [16, 8], 6, experts);
        let gemma3n = gemma3n(2048, 8192, 30, 10);
        for (json, from, to, words) in [
            (
                &e2b,
                r#""global_head_dim": 512"#,
                r#""global_head_dim": 256"#,
                "global_head_dim is 256; Gemma 4 E2B has 512",
            ),
            (
                &e2b,
                r#""num_kv_shared_layers": 20"#,
                r#""num_kv_shared_layers": 15"#,
                "num_kv_shared_layers is 15",
            ),
            (
                &e2b,
                r#""use_double_wide_mlp": true"#,
                r#""use_double_wide_mlp": false"#,
                "the width of layer 15",
            ),
            (
                &e2b,
                r#""hidden_size_per_layer_input": 256"#,
                r#""hidden_size_per_layer_input": 128"#,
                "hidden_size_per_layer_input is 128",
            ),
            (
                &e2b,
                r#""final_logit_softcapping": 30.0"#,
                r#""final_logit_softcapping": null"#,
                "final_logit_softcapping is null; Gemma 4 E2B has 30.0",
            ),
            (
                &e2b,
                r#""partial_rotary_factor": 0.25"#,
                r#""partial_rotary_factor": 0.5"#,
                "rotated pairs",
            ),
            (
                &e2b,
                r#""rope_type": "proportional""#,
                r#""rope_type": "proportional", "factor": 8.0"#,
                "factor of rope",
            ),
            (
                &e2b,
                r#""use_cache": true"#,
                r#""use_bidirectional_attention": "all""#,
                "use_bidirectional_attention is true",
            ),
            (
                &experts,
                r#""top_k_experts": 8"#,
                r#""top_k_experts": 4"#,
                "top_k_experts is 4; Gemma 4 26B-A4B has 8",
            ),
            (
                &experts,
                r#""enable_moe_block": true"#,
                r#""enable_moe_block": false"#,
                "enable_moe_block is false",
            ),
            (
                &experts,
                r#""attention_k_eq_v": true"#,
                r#""attention_k_eq_v": false"#,
                "attention_k_eq_v is false",
            ),
            (
                &experts,
                r#""num_global_key_value_heads": 2"#,
                r#""num_global_key_value_heads": 4"#,
                "num_global_key_value_heads is 4",
            ),
            (&gemma3n, "[0.95,", "[0.5,", "activation_sparsity_pattern of layer 0 is 0.5"),
            (
                &gemma3n,
                r#""altup_correct_scale": true"#,
                r#""altup_correct_scale": false"#,
                "altup_correct_scale is false",
            ),
            (&gemma3n, r#""laurel_rank": 64"#, r#""laurel_rank": 32"#, "laurel_rank is 32"),
            (
                &gemma3n,
                r#""altup_num_inputs": 4"#,
                r#""altup_num_inputs": 2"#,
                "altup_num_inputs is 2",
            ),
        ] {
            let changed = json.replacen(from, to, 1);
            assert_ne!(*json, changed, "{from}");
            let remarks = parse(&changed).unwrap().remarks;
            assert!(remarks.iter().any(|remark| remark.text.contains(words)), "{to}: {remarks:?}");
        }
    }

    /// Released models as their files have them on the Hub, with the keys that matter to nobody here.
    #[test]
    fn released_configs_are_nothing_unusual() {
        let released: &[(&str, &str)] = &[
            (
                "Gemma 1 7B",
                r#"{"architectures": ["GemmaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
                    "bos_token_id": 2, "eos_token_id": 1, "head_dim": 256, "hidden_act": "gelu",
                    "hidden_activation": null, "hidden_size": 3072, "initializer_range": 0.02,
                    "intermediate_size": 24576, "max_position_embeddings": 8192, "model_type": "gemma",
                    "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 16,
                    "pad_token_id": 0, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 10000.0,
                    "torch_dtype": "bfloat16", "transformers_version": "4.38.0.dev0", "use_cache": true,
                    "vocab_size": 256000}"#,
            ),
            (
                "Gemma 2 27B",
                r#"{"architectures": ["Gemma2ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
                    "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid",
                    "eos_token_id": 1, "final_logit_softcapping": 30.0, "head_dim": 128,
                    "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
                    "hidden_size": 4608, "initializer_range": 0.02, "intermediate_size": 36864,
                    "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 32,
                    "num_hidden_layers": 46, "num_key_value_heads": 16, "pad_token_id": 0,
                    "query_pre_attn_scalar": 144, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
                    "sliding_window": 4096, "sliding_window_size": 4096, "torch_dtype": "float32",
                    "transformers_version": "4.42.0.dev0", "use_cache": true, "vocab_size": 256000,
                    "_attn_implementation": "eager"}"#,
            ),
            (
                "Gemma 3 4B",
                r#"{"architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999,
                    "eoi_token_index": 256000, "eos_token_id": [1, 106], "image_token_index": 262144,
                    "initializer_range": 0.02, "mm_tokens_per_image": 256, "model_type": "gemma3",
                    "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
                      "num_hidden_layers": 34, "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                      "sliding_window": 1024},
                    "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
                    "vision_config": {"hidden_size": 1152, "image_size": 896, "model_type": "siglip_vision_model"}}"#,
            ),
            (
                "Gemma 3 27B",
                r#"{"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
                    "text_config": {"head_dim": 128, "hidden_size": 5376, "intermediate_size": 21504,
                      "model_type": "gemma3_text", "num_attention_heads": 32, "num_hidden_layers": 62,
                      "num_key_value_heads": 16, "query_pre_attn_scalar": 168,
                      "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}}"#,
            ),
            (
                "EmbeddingGemma 300M",
                r#"{"_sliding_window_pattern": 6, "architectures": ["Gemma3TextModel"], "attention_bias": false,
                    "attn_logit_softcapping": null, "bos_token_id": 2, "dtype": "float32", "eos_token_id": 1,
                    "final_logit_softcapping": null, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
                    "hidden_size": 768, "intermediate_size": 1152, "max_position_embeddings": 2048,
                    "model_type": "gemma3_text", "num_attention_heads": 3, "num_hidden_layers": 24,
                    "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
                    "rope_local_base_freq": 10000.0, "rope_scaling": null, "rope_theta": 1000000.0,
                    "sliding_window": 512, "use_bidirectional_attention": true, "vocab_size": 262144}"#,
            ),
            ("Gemma 3n E2B", &gemma3n(2048, 8192, 30, 10)),
            ("Gemma 3n E4B", &gemma3n(2048, 16384, 35, 15)),
            (
                "Gemma 4 E2B",
                &gemma4(
                    [1536, 6144, 35],
                    [8, 1],
                    5,
                    r#""num_global_key_value_heads": null, "sliding_window": 512,
                    "attention_k_eq_v": false, "num_kv_shared_layers": 20, "use_double_wide_mlp": true,
                    "hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 262144,
                    "use_bidirectional_attention": null"#,
                ),
            ),
            (
                "Gemma 4 E4B",
                &gemma4(
                    [2560, 10240, 42],
                    [8, 2],
                    6,
                    r#""num_global_key_value_heads": null, "sliding_window": 512,
                    "attention_k_eq_v": false, "num_kv_shared_layers": 18, "use_double_wide_mlp": false,
                    "hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 262144,
                    "use_bidirectional_attention": null"#,
                ),
            ),
            (
                "Gemma 4 31B",
                &gemma4(
                    [5376, 21504, 60],
                    [32, 16],
                    6,
                    r#""num_global_key_value_heads": 4, "sliding_window": 1024,
                    "attention_k_eq_v": true, "num_kv_shared_layers": 0, "use_double_wide_mlp": false,
                    "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 262144,
                    "use_bidirectional_attention": "vision""#,
                ),
            ),
            (
                "Gemma 4 26B-A4B",
                &gemma4(
                    [2816, 2112, 30],
                    [16, 8],
                    6,
                    r#""num_global_key_value_heads": 2, "sliding_window": 1024,
                    "attention_k_eq_v": true, "num_kv_shared_layers": 0, "use_double_wide_mlp": false,
                    "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 262144,
                    "enable_moe_block": true, "num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704,
                    "use_bidirectional_attention": "vision""#,
                ),
            ),
            (
                "EmbeddingGemma 2",
                r#"{"architectures": ["EmbeddingGemma2TextModel"], "model_type": "embedding_gemma2_text",
                    "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 4,
                    "num_key_value_heads": 2, "head_dim": 256, "global_head_dim": 512, "num_global_key_value_heads": 1,
                    "sliding_window": 512, "sliding_window_pattern": 6, "hidden_size_per_layer_input": 512,
                    "embedding_dim": 768, "rms_norm_eps": 1e-06, "vocab_size": 262144}"#,
            ),
            (
                "VaultGemma 1B",
                r#"{"architectures": ["VaultGemmaForCausalLM"], "model_type": "vaultgemma", "vocab_size": 256000,
                    "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 4,
                    "hidden_size": 1152, "intermediate_size": 6912, "head_dim": 256,
                    "query_pre_attn_scalar": 256, "sliding_window": 512}"#,
            ),
        ];
        for &(name, json) in released {
            let config = parse(json).unwrap();
            assert_eq!(config.remarks, [], "{name}");
            assert_eq!(unusual::whose(config.family, &config.stacks[0]).unwrap(), name);
        }
    }
}
