//! The tensors of a checkpoint that nothing is computed of, and what they may be.

use super::remark::{Names, Remark, RemarkKind};
use super::tensors::Tensors;
use std::collections::HashSet;

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
    harmless: Names,
    adapters: Names,
    scales: Names,
    layers: Option<Beyond>,
    others: Names,
}

/// Layers behind the config's last one.
struct Beyond {
    first: usize,
    last: usize,
    /// How many layers the config has.
    count: usize,
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
            let number: usize = number.parse().ok()?;
            (number >= *count).then_some((number, *count))
        });
        if HARMLESS.iter().any(|part| name.contains(part)) {
            found.harmless.push(name);
        } else if name.contains("lora_") || name.contains(".base_layer.") {
            found.adapters.push(name);
        } else if let Some((layer, count)) = beyond {
            let known = found.layers.get_or_insert(Beyond { first: layer, last: layer, count });
            (known.first, known.last) = (known.first.min(layer), known.last.max(layer));
        } else if is_scale(name) {
            found.scales.push(name);
        } else if whole {
            found.others.push(name);
        }
    }
    found.remarks()
}

impl Found {
    fn remarks(self) -> Vec<Remark> {
        let mut remarks = vec![];
        let mut warn = |text| remarks.push(Remark::warning(RemarkKind::Unused, text));
        let Self { harmless, adapters, scales, layers: beyond, others } = self;
        if adapters.count > 0 {
            warn(format!(
                "LoRA tensors are not applied ({}: {adapters}); merge them into the weights (merge_and_unload) to have them",
                adapters.count
            ));
        }
        if let Some(Beyond { first, last, count }) = beyond {
            let which = if first == last {
                format!("layer {first} is")
            } else {
                format!("layers {first} to {last} are")
            };
            warn(format!("{which} in the weights and not used: num_hidden_layers is {count}"));
        }
        if scales.count > 0 {
            warn(format!(
                "scales of quantised weights are not applied ({}: {scales}); the weights are taken as they are stored",
                scales.count
            ));
        }
        if others.count > 0 {
            warn(format!("tensors are not used ({}: {others})", others.count));
        }
        if harmless.count > 0 {
            let count = harmless.count;
            let text =
                format!("tensors are not of the text model and not used ({count}: {harmless})");
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
