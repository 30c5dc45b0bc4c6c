//! What frameworks call the points of a model.

use super::{MAX_LAYERS, Meaning};
use std::sync::LazyLock;

/// The name of a module in lower case, its parts parted by points, and what that is. A name may have more
/// in front; `<` behind it stands for what goes in, and nothing for what comes out; `{N}` is the index of
/// a layer; behind `*` the rest need not begin a part of a name.
///
/// Several names may mean one point. The one that stands first is read then: they are equal in any sane
/// model, and where they are not, it is the one whose meaning is surest.
const TABLE: &[(&str, &str)] = &[
    ("input_ids", "tokens"),
    ("token_ids", "tokens"),
    // transformers, by module. Of a module that has others in it, its debugger writes what goes in alone.
    ("embed_tokens<", "tokens"),
    ("embed_tokens", "embedding"),
    ("layers.{N}", "hidden.{N}"),
    ("layers.{N}<", "hidden.{N-1}"),
    ("layers.{N}.input_layernorm", "layers.{N}.attn.input"),
    ("layers.{N}.self_attn<", "layers.{N}.attn.input"),
    ("layers.{N}.self_attn", "layers.{N}.attn.output"),
    ("layers.{N}.self_attn.o_proj", "layers.{N}.attn.output"),
    // Of Gemma 2 on: in Gemma 1 this is what enters the block.
    ("layers.{N}.post_attention_layernorm", "layers.{N}.attn.normed"),
    ("layers.{N}.pre_feedforward_layernorm<", "layers.{N}.attended"),
    ("layers.{N}.mlp<", "layers.{N}.mlp.input"),
    ("layers.{N}.pre_feedforward_layernorm", "layers.{N}.mlp.input"),
    ("layers.{N}.mlp.gate_proj", "layers.{N}.mlp.gate"),
    ("layers.{N}.mlp.up_proj", "layers.{N}.mlp.up"),
    ("layers.{N}.mlp.act_fn", "layers.{N}.mlp.activated"),
    ("layers.{N}.mlp.down_proj<", "layers.{N}.mlp.product"),
    ("layers.{N}.mlp", "layers.{N}.mlp.output"),
    ("layers.{N}.mlp.down_proj", "layers.{N}.mlp.output"),
    ("layers.{N}.post_feedforward_layernorm", "layers.{N}.mlp.normed"),
    ("layers.{N}.router", "layers.{N}.experts.probabilities"),
    ("layers.{N}.experts", "layers.{N}.experts.output"),
    ("layers.{N}.per_layer_input_gate", "layers.{N}.per_layer.gate"),
    ("layers.{N}.per_layer_projection<", "layers.{N}.per_layer.product"),
    ("layers.{N}.post_per_layer_input_norm", "layers.{N}.per_layer.output"),
    // EmbeddingGemma 2 has these in a module of their own.
    ("layers.{N}.ple_block.per_layer_input_gate", "layers.{N}.per_layer.gate"),
    ("layers.{N}.ple_block.per_layer_projection<", "layers.{N}.per_layer.product"),
    ("layers.{N}.ple_block.post_per_layer_input_norm", "layers.{N}.per_layer.output"),
    ("embedding_projection", "projected"),
    ("*model.norm<", "hidden.last"),
    ("*model.norm", "normed"),
    ("last_hidden_state", "normed"),
    // Behind the soft-cap; lm_head is in front of it.
    ("logits", "logits"),
    ("lm_head", "logits"),
    // DeepMind's gemma on flax. Layers and attention return their cache first.
    ("embedder.encode", "embedding"),
    ("layer_{N}>1", "hidden.{N}"),
    ("layer_{N}", "hidden.{N}"),
    ("layer_{N}.pre_attention_norm", "layers.{N}.attn.input"),
    ("layer_{N}.attn>1", "layers.{N}.attn.output"),
    ("layer_{N}.attn", "layers.{N}.attn.output"),
    ("layer_{N}.post_attention_norm", "layers.{N}.attn.normed"),
    ("layer_{N}.pre_ffw_norm", "layers.{N}.mlp.input"),
    ("layer_{N}.mlp", "layers.{N}.mlp.output"),
    ("layer_{N}.post_ffw_norm", "layers.{N}.mlp.normed"),
    ("final_norm", "normed"),
    // keras-hub. Its token_embedding is not scaled yet, and no point of ours.
    ("decoder_block_{N}", "hidden.{N}"),
    ("decoder_block_{N}.pre_attention_norm", "layers.{N}.attn.input"),
    ("decoder_block_{N}.attention", "layers.{N}.attn.output"),
    ("decoder_block_{N}.post_attention_norm", "layers.{N}.attn.normed"),
    ("decoder_block_{N}.pre_ffw_norm", "layers.{N}.mlp.input"),
    ("decoder_block_{N}.ffw_gating", "layers.{N}.mlp.gate"),
    ("decoder_block_{N}.ffw_gating_2", "layers.{N}.mlp.up"),
    ("decoder_block_{N}.ffw_linear<", "layers.{N}.mlp.product"),
    ("decoder_block_{N}.ffw_linear", "layers.{N}.mlp.output"),
    ("decoder_block_{N}.post_ffw_norm", "layers.{N}.mlp.normed"),
    ("final_normalization", "normed"),
    // llama.cpp.
    ("inp_scaled", "embedding"),
    ("l_out-{N}", "hidden.{N}"),
    ("attn_norm-{N}", "layers.{N}.attn.input"),
    // Named before and behind the rotary embedding: of the two the second.
    ("qcur-{N}", "layers.{N}.attn.q"),
    ("kcur-{N}", "layers.{N}.attn.k"),
    ("vcur-{N}", "layers.{N}.attn.v"),
    // kqv_out is no point of ours: since 2025 it is what goes into o_proj, before what came out.
    ("attn_post_norm-{N}", "layers.{N}.attn.normed"),
    ("sa_out-{N}", "layers.{N}.attended"),
    ("ffn_norm-{N}", "layers.{N}.mlp.input"),
    ("ffn_gate-{N}", "layers.{N}.mlp.gate"),
    ("ffn_up-{N}", "layers.{N}.mlp.up"),
    ("ffn_geglu-{N}", "layers.{N}.mlp.product"),
    ("ffn_gate_par-{N}", "layers.{N}.mlp.product"),
    ("ffn_out-{N}", "layers.{N}.mlp.output"),
    ("ffn_post_norm-{N}", "layers.{N}.mlp.normed"),
    ("result_norm", "normed"),
    ("result_output", "logits"),
];

/// Parts of names that are not the text model's.
const OTHERS: [&str; 3] = ["vision", "audio", "encoder"];

/// The table, with whether a name may have something in front that is not parted from it.
static ROWS: LazyLock<Vec<(bool, Pattern, &str)>> = LazyLock::new(|| {
    let row = |&(theirs, ours): &(&str, &'static str)| match theirs.strip_prefix('*') {
        Some(theirs) => (true, Pattern::whole(theirs), ours),
        None => (false, Pattern::whole(theirs), ours),
    };
    TABLE.iter().map(row).collect()
});

/// What a name in [`normal`] form means, and in which row of the table it stands.
pub(super) fn role(name: &str) -> Option<(Meaning, usize)> {
    ROWS.iter().enumerate().find_map(|(row, (anywhere, pattern, ours))| {
        let (front, layer) = pattern.end(name)?;
        let at_part = front.is_empty() || front.ends_with(['.', '<', '>']);
        (*anywhere || at_part).then_some(())?;
        let of_text = |part: &str| {
            !OTHERS.iter().any(|other| part.contains(other)) && part.parse::<u64>().is_err()
        };
        // `model.layers.3.logits` is none.
        front.split(['.', '<', '>']).all(of_text).then_some(())?;
        Some((meaning(ours, layer)?, row))
    })
}

fn meaning(ours: &str, layer: Option<usize>) -> Option<Meaning> {
    let number = |n: usize, mark: &str| Meaning::named(&ours.replace(mark, &n.to_string()));
    match layer {
        None if ours == "hidden.last" => Some(Meaning::LastHidden),
        None => Meaning::named(ours),
        Some(n) if ours.contains("{N-1}") => match n.checked_sub(1) {
            Some(before) => number(before, "{N-1}"),
            None => Meaning::named("embedding"),
        },
        Some(n) => number(n, super::LAYER),
    }
}

/// A name in the form of the table: in lower case, with points between its parts, `<` behind it for what
/// goes in, `>` and its number or name for what comes out second or by name.
pub(super) fn normal(name: &str) -> String {
    let name = name.to_lowercase().replace('/', ".").replace(".__call__", "");
    let (name, slot) = match name.strip_suffix(']').and_then(|name| name.rsplit_once('[')) {
        Some((name, slot)) => (name.to_string(), slot.to_string()),
        None => (name, String::new()),
    };
    // As transformers' debugger writes them.
    for (mark, side) in [("_inputs", '<'), ("_outputs", '>')] {
        if let Some((name, rest)) = name.rsplit_once(mark)
            && (rest.is_empty() || rest.starts_with('_'))
        {
            let rest = rest.trim_start_matches('_');
            return with_slot(name, side, rest.strip_prefix("kwargs_").unwrap_or(rest));
        }
    }
    let sides = [(".input", '<'), ("_input", '<'), (".output", '>'), ("_output", '>')];
    for (mark, side) in sides {
        if let Some(name) = name.strip_suffix(mark) {
            // llama.cpp's.
            let whole = name == "result";
            return if whole { format!("{name}{mark}") } else { with_slot(name, side, &slot) };
        }
    }
    with_slot(&name, '>', &slot)
}

/// The first of several, and what is called the hidden states, is the thing itself.
fn with_slot(name: &str, side: char, slot: &str) -> String {
    match (side, slot) {
        ('<', "" | "0" | "args_0" | "hidden_states") => format!("{name}<"),
        ('>', "" | "0") => name.into(),
        _ => format!("{name}{side}{slot}"),
    }
}

/// A name, perhaps with the index of a layer in it.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    before: String,
    /// What follows the index, if there is one.
    after: Option<String>,
}

impl Pattern {
    pub(super) fn whole(pattern: &str) -> Self {
        match pattern.split_once(super::LAYER) {
            Some((before, after)) => Self { before: before.into(), after: Some(after.into()) },
            None => Self { before: pattern.into(), after: None },
        }
    }

    /// What stands in front of it in a name that ends with it, and the layer's index.
    fn end<'a>(&self, name: &'a str) -> Option<(&'a str, Option<usize>)> {
        let Some(after) = &self.after else {
            return Some((name.strip_suffix(self.before.as_str())?, None));
        };
        let name = name.strip_suffix(after.as_str())?;
        let rest = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let digits = &name[rest.len()..];
        // Digits alone, as they are written: `03` is another name.
        let layer =
            digits.parse().ok().filter(|n: &usize| n.to_string() == digits && *n < MAX_LAYERS)?;
        Some((rest.strip_suffix(self.before.as_str())?, Some(layer)))
    }

    /// The layer's index in a name that is this and nothing more.
    pub(super) fn layer(&self, name: &str) -> Option<Option<usize>> {
        self.end(name).filter(|(front, _)| front.is_empty()).map(|(_, layer)| layer)
    }
}
