//! The tensors of a checkpoint that nothing is computed of, and what they may be.

use super::remark::{Remark, RemarkKind, list};
use super::tensors::Tensors;
use std::collections::{BTreeSet, HashSet};

/// Parts of a model that see and hear, and buffers that are computed anew. They change nothing of a text.
const HARMLESS: &[&str] = &[
    "vision_tower.",
    "vision_model.",
    "multi_modal_projector.",
    "embed_vision.",
    "audio_tower.",
    "embed_audio.",
    "rotary_emb.inv_freq",
    "embed_positions.",
    "position_ids",
];

/// What the names of unused tensors say of them.
#[derive(Default)]
struct Found {
    harmless: Vec<String>,
    adapters: Vec<String>,
    scales: Vec<String>,
    layers: BTreeSet<usize>,
    others: Vec<String>,
}

/// Remarks on all tensors that are not among the used ones. `layers` says how many layers the config has, for each
/// prefix of a stack; `whole` whether the whole model is computed, and not the blocks alone.
pub(super) fn remarks(
    tensors: &Tensors,
    used: &HashSet<String>,
    layers: &[(String, usize)],
    whole: bool,
) -> Vec<Remark> {
    let mut found = Found::default();
    for name in tensors.names().filter(|name| !used.contains(*name)) {
        let beyond = layers.iter().find_map(|(prefix, count)| {
            let number =
                name.strip_prefix(prefix.as_str())?.strip_prefix("layers.")?.split('.').next()?;
            number.parse().ok().filter(|number| number >= count)
        });
        if HARMLESS.iter().any(|part| name.contains(part)) {
            found.harmless.push(name.into());
        } else if name.contains("lora_") || name.contains(".base_layer.") {
            found.adapters.push(name.into());
        } else if let Some(layer) = beyond {
            found.layers.insert(layer);
        } else if is_scale(name) {
            found.scales.push(name.into());
        } else if whole {
            found.others.push(name.into());
        }
    }
    found.remarks(layers)
}

impl Found {
    fn remarks(self, layers: &[(String, usize)]) -> Vec<Remark> {
        let mut remarks = vec![];
        let mut warn = |text| remarks.push(Remark::warning(RemarkKind::Unused, text));
        let Self { harmless, adapters, scales, layers: beyond, others } = self;
        if !adapters.is_empty() {
            warn(format!(
                "{} LoRA tensors are not applied ({}); merge them into the weights (merge_and_unload) to have them",
                adapters.len(),
                list(&adapters)
            ));
        }
        if let (Some(first), Some(last)) = (beyond.first(), beyond.last()) {
            let which = if first == last {
                format!("layer {first} is")
            } else {
                format!("layers {first} to {last} are")
            };
            let count = layers.first().map_or(0, |(_, count)| *count);
            warn(format!("{which} in the weights and not used: num_hidden_layers is {count}"));
        }
        if !scales.is_empty() {
            warn(format!(
                "{} scales of quantised weights are not applied ({}); the weights are taken as they are stored",
                scales.len(),
                list(&scales)
            ));
        }
        if !others.is_empty() {
            warn(format!("{} tensors are not used: {}", others.len(), list(&others)));
        }
        if !harmless.is_empty() {
            let text = format!(
                "{} tensors are not of the text model and not used ({})",
                harmless.len(),
                list(&harmless)
            );
            remarks.push(Remark::note(RemarkKind::Unused, text));
        }
        remarks
    }
}

/// Whether a name is that of what quantised weights are multiplied with, or shifted by.
fn is_scale(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let parts = ["scale", "absmax", "zero_point", "qzeros", "quant_map", "quant_state", "g_idx"];
    parts.iter().any(|part| last.contains(part))
}
