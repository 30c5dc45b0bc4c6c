//! Where in the tensors' names the text model is.

use super::config::stack::Stack;
use super::tensors::Tensors;
use crate::error::{Error, Result};

/// What stands before the layers of a stack: text models have `model.`; multimodal ones of transformers 4
/// `language_model.model.`, of transformers 5 `model.language_model.`, ShieldGemma 2 both; a bare backbone, as
/// EmbeddingGemma's, nothing; and DiffusionGemma has its layers with its decoder.
const PREFIXES: [&str; 7] = [
    "model.",
    "language_model.model.",
    "model.language_model.",
    "model.language_model.model.",
    "language_model.",
    "model.decoder.",
    "",
];

/// What stands before `layers.N` of a stack in this checkpoint: one of the known prefixes, or any other if there is
/// but one.
pub(super) fn prefix(stack: &Stack, mlp: &str, tensors: &Tensors) -> Result<String> {
    let own = if stack.name.is_empty() { String::new() } else { format!("{}.", stack.name) };
    let probe = |part: &str| format!("{own}layers.0.{mlp}.{part}");
    let weight = probe("down_proj.weight");
    if let Some(known) =
        PREFIXES.iter().find(|prefix| tensors.contains(&format!("{prefix}{weight}")))
    {
        return Ok(format!("{known}{own}"));
    }
    let others: Vec<_> = tensors.names().filter_map(|name| name.strip_suffix(&weight)).collect();
    match others[..] {
        [prefix] if prefix.ends_with('.') => Ok(format!("{prefix}{own}")),
        _ => Err(Error::MissingTensor {
            path: tensors.path().into(),
            tensor: format!("model.{weight}"),
            remedy: remedy(&probe("down_proj."), &others, tensors),
        }),
    }
}

/// What is there in place of the first block.
fn remedy(layer: &str, prefixes: &[&str], tensors: &Tensors) -> String {
    if let [first, second, ..] = prefixes {
        return format!(
            "there are several models in it, as '{first}' and '{second}'; take one out"
        );
    }
    // Parts of the layer, in whatever place: `qweight`, `base_layer.weight`, `weight_packed`.
    let parts = tensors.names().filter_map(|name| Some(name.split_once(layer)?.1)).take(16);
    let parts: Vec<_> = parts.collect();
    if let Some(lora) =
        parts.iter().find(|part| part.contains("lora_") || part.starts_with("base_layer"))
    {
        return format!(
            "there is '…{layer}{lora}': a model that was saved with its adapter unmerged; merge it (merge_and_unload) \
             and save it again"
        );
    }
    if let [first, ..] = parts[..] {
        return format!(
            "there is '…{layer}{first}' in its place: the weights are quantised; take the unquantised model or a GGUF file \
             of it, or dequantise it first"
        );
    }
    let first = tensors.names().next().map_or("none".into(), |name| format!("'{name}' and so on"));
    format!("its tensors are {first}; {}", tensors.remedy())
}

/// The weight of a head, with whatever before it; those of a vision tower have other names.
pub(super) fn lm_head(head: &str, backbone: &str, tensors: &Tensors) -> Option<String> {
    let name = &format!("{head}.weight");
    let parents = backbone.match_indices('.').map(|(at, _)| &backbone[..=at]);
    let own = std::iter::once("").chain(parents).map(|parent| format!("{parent}{name}"));
    own.into_iter().find(|name| tensors.contains(name))
}
