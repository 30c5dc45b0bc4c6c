//! The keys of a config that nobody reads, and which of them may matter.

use super::raw::{Keys, PartKeys};
use crate::checkpoint::families::Family;
use crate::checkpoint::json::parse_json;
use crate::checkpoint::remark::{Names, Remark, RemarkKind};
use crate::error::Result;
use std::path::Path;

/// What is read, by whatever family.
const READ: &[&str] = &[
    "activation_sparsity_pattern",
    "altup_active_idx",
    "altup_coef_clip",
    "altup_correct_scale",
    "altup_num_inputs",
    "architectures",
    "attention_bias",
    "attention_k_eq_v",
    "attention_window_size",
    "attn_logit_softcapping",
    "block_types",
    "bos_token_id",
    "conv1d_width",
    "decoder",
    "embedding_dim",
    "enable_moe_block",
    "encoder",
    "eos_token_id",
    "final_logit_softcapping",
    "global_head_dim",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "hidden_size",
    "hidden_size_per_layer_input",
    "intermediate_size",
    "laurel_rank",
    "layer_types",
    "logits_soft_cap",
    "lru_width",
    "max_position_embeddings",
    "model_type",
    "moe_intermediate_size",
    "num_attention_heads",
    "num_experts",
    "num_global_key_value_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "num_kv_shared_layers",
    "partial_rotary_factor",
    "per_layer_config",
    "quantization",
    "quantization_config",
    "query_pre_attn_scalar",
    "rms_norm_eps",
    "rope_local_base_freq",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "sliding_window_pattern",
    "text_config",
    "tie_word_embeddings",
    "top_k_experts",
    "use_bidirectional_attention",
    "use_double_wide_mlp",
    "vocab_size",
    "vocab_size_per_layer_input",
];

/// What changes no figure: how a model was initialised and trained, how it is stored, served and described, what
/// generation starts from, and what images and sounds need.
const HARMLESS: &[&str] = &[
    "attention_dropout",
    "audio_config",
    "audio_soft_tokens_per_image",
    "audio_token_id",
    "audio_token_index",
    "bad_words_ids",
    "begin_suppress_tokens",
    "boa_token_id",
    "boi_token_id",
    "boi_token_index",
    "cache_implementation",
    "canvas_length",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "classifier_dropout_rate",
    "dropout_rate",
    "dtype",
    "embeddings_scale_by_sqrt_dim",
    "eoa_token_id",
    "eoa_token_index",
    "eoi_token_id",
    "eoi_token_index",
    "final_w_init_variance_scale",
    "finetuning_task",
    "hidden_dropout",
    "id2label",
    "image_token_id",
    "image_token_index",
    "initializer_range",
    "is_causal",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "max_length",
    "min_length",
    "mm_tokens_per_image",
    "num_image_tokens",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "projection_dim",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "sliding_window_size",
    "task_specific_params",
    "temperature",
    "tie_last_hidden_states",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "use_bfloat16",
    "use_cache",
    "video_token_id",
    "vision_config",
    "vision_soft_tokens_per_image",
    "w_init_variance_scale",
];

/// What older files have of generation, which is greedy here.
const GENERATION: &[&str] = &[
    "add_cross_attention",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "output_scores",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "suppress_tokens",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "typical_p",
];

/// How harmless keys begin: private ones, and what a training tool keeps.
const HARMLESS_PREFIXES: &[&str] = &["_", "unsloth_", "transformers."];

/// What code outside the checkpoint's files computes with.
const CODE: &str = "auto_map";

/// Remarks on the keys that are not used.
///
/// Where blocks alone are run, most of a config is not used, which is said there.
pub(super) fn unread(json: &str, path: &Path, family: Family) -> Result<Vec<Remark>> {
    if family.profile().attention.is_err() {
        return Ok(vec![]);
    }
    let Keys(top) = parse_json(json, path)?;
    let PartKeys { text_config, encoder, decoder } = parse_json(json, path)?;
    let parts = [("text_config.", text_config), ("encoder.", encoder), ("decoder.", decoder)];
    let mut keys: Vec<_> = top.into_iter().map(|key| (String::new(), key)).collect();
    for (part, of) in parts {
        let of = of.map_or(vec![], |Keys(keys)| keys);
        keys.extend(of.into_iter().map(|key| (part.to_string(), key)));
    }
    let mut remarks = vec![];
    let (mut unknown, mut unread) = (Names::default(), Names::default());
    for (part, key) in keys.iter().map(|(part, key)| (part, key.as_str())) {
        let full = format!("{part}{key}");
        if key == CODE {
            let text = format!(
                "config.json names code of its own ({full}), which is not run: the model is computed as {family}"
            );
            remarks.push(Remark::warning(RemarkKind::Unused, text));
        } else if family.profile().ignores(key) {
            unread.push(&full);
        } else if !is_known(key) {
            unknown.push(&full);
        }
    }
    if unread.count > 0 {
        let text = format!(
            "config.json has {}, which {family} does not have; not used, as in transformers",
            unread
        );
        remarks.push(Remark::warning(RemarkKind::Unused, text));
    }
    if unknown.count > 0 {
        let text = format!("config.json has {}, which is not known here and not used", unknown);
        remarks.push(Remark::warning(RemarkKind::Unused, text));
    }
    Ok(remarks)
}

fn is_known(key: &str) -> bool {
    let harmless = HARMLESS_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
    harmless || READ.contains(&key) || HARMLESS.contains(&key) || GENERATION.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unread(json: &str, family: &str) -> Vec<String> {
        let remarks = super::unread(json, Path::new("config.json"), Family::named(family)).unwrap();
        remarks.into_iter().map(|remark| remark.text).collect()
    }

    #[test]
    fn what_may_matter_is_named() {
        let gemma3 = |json| unread(json, "Gemma 3");
        for json in [
            "{}",
            r#"{"hidden_size": 8, "torch_dtype": "bfloat16", "_name_or_path": "x", "unsloth_fixed": true}"#,
            r#"{"new_kind_of_norm": null, "use_new_norm": false, "new_list": [], "new_table": {}}"#,
            r#"{"text_config": {"hidden_size": 8}, "vision_config": {"anything": 1}}"#,
            r#"{"attn_logit_softcapping": null}"#,
        ] {
            assert_eq!(gemma3(json), [""; 0], "{json}");
        }
        assert!(gemma3(r#"{"embedding_multiplier": 2.0}"#)[0].contains("embedding_multiplier"));
        let part = gemma3(r#"{"text_config": {"logit_scale": 0.5}}"#);
        assert!(part[0].contains("text_config.logit_scale"));
        assert!(gemma3(r#"{"auto_map": {"AutoModel": "mine.py"}}"#)[0].contains("auto_map"));
        assert!(gemma3(r#"{"attn_logit_softcapping": 50.0}"#)[0].contains("does not have"));
        assert!(unread(r#"{"rope_local_base_freq": 1e4}"#, "Gemma 2")[0].contains("does not have"));
        assert!(unread(r#"{"sliding_window": 512}"#, "Gemma 1")[0].contains("does not have"));
        for (key, family) in [
            ("enable_moe_block", "Gemma 4 Unified"),
            ("altup_num_inputs", "Gemma 4"),
            ("global_head_dim", "Gemma 3n"),
            ("vocab_size_per_layer_input", "EmbeddingGemma 2"),
            ("num_kv_shared_layers", "DiffusionGemma"),
            ("embedding_dim", "Gemma 3"),
        ] {
            let told = unread(&format!(r#"{{"{key}": true}}"#), family);
            assert!(told[0].contains("does not have"), "{key} {family}");
        }
    }
}
