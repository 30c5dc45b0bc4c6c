//! What else lies in a checkpoint's directory.

use crate::checkpoint::json::{parse_json, read_text};
use crate::checkpoint::remark::{Remark, RemarkKind};
use serde::Deserialize;
use std::path::Path;

const ADAPTER: &str = "adapter_config.json";

/// The list of an embedder's parts, as sentence-transformers writes it.
const MODULES: &str = "modules.json";

/// What lies beside a model and is not used: an adapter, an embedder's further parts.
pub(in crate::checkpoint) fn remarks(dir: &Path) -> Vec<Remark> {
    let mut remarks = vec![];
    if dir.join(ADAPTER).exists() {
        let text = format!(
            "there is an adapter beside the weights ({ADAPTER}), and it is not applied; merge it into them to have it"
        );
        remarks.push(Remark::warning(RemarkKind::Unused, text));
    }
    if dir.join(MODULES).exists() {
        let text = format!(
            "{MODULES} lists parts behind the model, such as pooling and dense layers; they are not run, and figures \
             are of the hidden states"
        );
        remarks.push(Remark::note(RemarkKind::Unused, text));
    }
    remarks
}

/// What a directory without safetensors weights holds in their place, and what to do.
pub(in crate::checkpoint) fn remedy(dir: &Path) -> String {
    let names = names(dir);
    let first = |ending: &str| names.iter().find(|name| name.ends_with(ending));
    if names.iter().any(|name| name == ADAPTER) {
        return adapter(dir);
    }
    if let Some(name) = first(".gguf") {
        return format!("there is {name}; pass that file itself to have it");
    }
    if let Some(name) = first(".bin").or(first(".pt")).or(first(".pth")).or(first(".ckpt")) {
        return format!(
            "there is {name}, PyTorch's own format, which can run code when it is read; load the model in transformers \
             and save it with save_pretrained, which writes safetensors"
        );
    }
    if let Some(name) = first(".safetensors") {
        return format!(
            "there is {name}; rename it to model.safetensors, or put model.safetensors.index.json beside the shards"
        );
    }
    "a checkpoint has model.safetensors, or shards with model.safetensors.index.json".into()
}

/// What a directory without `config.json` is.
pub(in crate::checkpoint) fn without_config(dir: &Path) -> String {
    let names = names(dir);
    if names.iter().any(|name| name == ADAPTER) {
        return adapter(dir);
    }
    if let Some(name) = names.iter().find(|name| name.ends_with(".gguf")) {
        return format!("there is {name}; pass that file itself to have it");
    }
    "a checkpoint directory has config.json beside its safetensors files".into()
}

/// The config of an adapter.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawAdapter {
    base_model_name_or_path: Option<String>,
}

/// An adapter alone.
fn adapter(dir: &Path) -> String {
    let path = dir.join(ADAPTER);
    let raw: Option<RawAdapter> =
        read_text(&path).ok().and_then(|json| parse_json(&json, &path).ok());
    let base = raw.and_then(|raw| raw.base_model_name_or_path);
    let base = base.map_or("its base model".into(), |base| format!("its base model, {base}"));
    format!("this is an adapter (LoRA) without a model; merge it into {base}, and pass the result")
}

/// The names of what is in a directory; nothing where it cannot be listed.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).take(1 << 12).collect();
    names.sort();
    names
}
