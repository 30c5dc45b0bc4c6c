//! The tensors of a checkpoint that nothing is computed of, and what they may be.

use super::config::attention::ValuesFrom;
use super::config::stack::Stack;
use super::families::LeftOut;
use super::layers::Layers;
use super::remark::{Names, Remark, RemarkKind};
use super::tensors::Tensors;
use std::collections::{BTreeSet, HashSet};

/// Parts of a model that see and hear, and buffers that are computed anew. They change nothing of a text.
const HARMLESS: &[&str] = &[
    "vision_tower.",
    "vision_model.",
    "vision_embedder.",
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
    beyond: Option<Beyond>,
    /// Keys and values of layers that use another's.
    shared: OfLayers,
    /// Values of layers whose values are their keys' projection.
    values: OfLayers,
    /// Scales of streams that the config does not scale.
    unscaled: OfLayers,
    left_out: Names,
    others: Names,
}

/// Layers behind the config's last one.
struct Beyond {
    first: usize,
    last: usize,
    /// How many layers the config has.
    count: usize,
}

/// Tensors of some layers.
#[derive(Default)]
struct OfLayers {
    layers: BTreeSet<usize>,
    count: usize,
}

impl OfLayers {
    fn push(&mut self, layer: usize) {
        self.layers.insert(layer);
        self.count += 1;
    }

    /// The layers, and how many tensors: `(9 tensors)`.
    fn shown(&self) -> Option<(String, String)> {
        let layers: Vec<_> = self.layers.iter().copied().collect();
        let tensors = if self.count == 1 { "tensor" } else { "tensors" };
        (self.count > 0)
            .then(|| (Layers(&layers).to_string(), format!("({} {tensors})", self.count)))
    }
}

/// A stack of layers, by the names of its tensors.
pub(super) struct Named<'a> {
    /// What stands before `layers.N`.
    pub(super) prefix: String,
    /// What the config has of it.
    pub(super) stack: &'a Stack,
}

impl Named<'_> {
    /// The layer that a tensor is of, and the rest of its name.
    fn layer<'n>(&self, name: &'n str) -> Option<(usize, &'n str)> {
        let rest = name.strip_prefix(self.prefix.as_str())?.strip_prefix("layers.")?;
        let (layer, rest) = rest.split_once('.')?;
        Some((layer.parse().ok()?, rest))
    }
}

/// Remarks on all tensors that are not among the used ones. `whole` says whether the whole model is computed, and not the
/// blocks alone; `left_out` what of the family is not.
pub(super) fn remarks(
    tensors: &Tensors,
    used: &HashSet<String>,
    stacks: &[Named],
    whole: bool,
    left_out: Option<&LeftOut>,
) -> Vec<Remark> {
    let mut found = Found::default();
    for name in tensors.names().filter(|name| !used.contains(*name)) {
        let of = stacks.iter().find_map(|stack| Some((stack, stack.layer(name)?)));
        let is_left_out = left_out.is_some_and(|left| left.parts.iter().any(|p| name.contains(p)));
        if HARMLESS.iter().any(|part| name.contains(part)) {
            found.harmless.push(name);
        } else if name.contains("lora_") || name.contains(".base_layer.") {
            found.adapters.push(name);
        } else if let Some((stack, (layer, _))) = of
            && layer >= stack.stack.num_hidden_layers
        {
            let count = stack.stack.num_hidden_layers;
            let known = found.beyond.get_or_insert(Beyond { first: layer, last: layer, count });
            (known.first, known.last) = (known.first.min(layer), known.last.max(layer));
        } else if let Some((stack, (layer, rest))) = of
            && let Some(spare) = spare(stack.stack, layer, rest)
        {
            match spare {
                Spare::KeysAndValues => found.shared.push(layer),
                Spare::Values => found.values.push(layer),
                Spare::Scale => found.unscaled.push(layer),
            }
        } else if is_left_out {
            found.left_out.push(name);
        } else if is_scale(name) {
            found.scales.push(name);
        } else if whole {
            found.others.push(name);
        }
    }
    found.remarks(left_out)
}

/// What a layer has and does not need.
enum Spare {
    /// Its attention takes those of another.
    KeysAndValues,
    /// Its attention takes keys for them.
    Values,
    /// The config says that AltUp has none.
    Scale,
}

fn spare(stack: &Stack, layer: usize, rest: &str) -> Option<Spare> {
    if stack.altup.is_some() && rest == "altup.correct_output_scale" {
        return Some(Spare::Scale);
    }
    let attention = stack.attention.as_ref().ok()?.layers.get(layer)?;
    let rest = rest.strip_prefix("self_attn.")?;
    let part = rest.strip_suffix(".weight").or(rest.strip_suffix(".bias"))?;
    match (part, attention.shares, attention.values) {
        ("k_proj" | "v_proj" | "k_norm", Some(_), _) => Some(Spare::KeysAndValues),
        ("v_proj", None, ValuesFrom::Keys) => Some(Spare::Values),
        _ => None,
    }
}

impl Found {
    fn remarks(self, left_out: Option<&LeftOut>) -> Vec<Remark> {
        let mut remarks = vec![];
        let mut warn = |text| remarks.push(Remark::warning(RemarkKind::Unused, text));
        let Self {
            harmless,
            adapters,
            scales,
            beyond,
            shared,
            values,
            unscaled,
            left_out: left,
            others,
        } = self;
        if let Some(LeftOut { sentence, .. }) = left_out {
            warn(match left.count {
                0 => (*sentence).into(),
                count => format!("{sentence}; its own tensors are not used ({count}: {left})"),
            });
        }
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
        let mut note = |text| remarks.push(Remark::note(RemarkKind::Unused, text));
        if let Some((layers, count)) = shared.shown() {
            note(format!(
                "{layers} use the keys and values of earlier layers; their own k_proj, v_proj and k_norm {count} are in \
                 the file and not used, as in transformers"
            ));
        }
        if let Some((layers, count)) = values.shown() {
            note(format!(
                "{layers} use keys as values (attention_k_eq_v); their own v_proj {count} are in the file and not used, \
                 as in transformers"
            ));
        }
        if let Some((layers, count)) = unscaled.shown() {
            note(format!(
                "altup_correct_scale is false: correct_output_scale of {layers} {count} is not used, as in transformers"
            ));
        }
        if harmless.count > 0 {
            let count = harmless.count;
            note(format!("tensors are not of the text model and not used ({count}: {harmless})"));
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
