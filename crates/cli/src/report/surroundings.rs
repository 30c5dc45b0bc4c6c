//! What surrounds the blocks of a checkpoint, as rows of a table. Of Gemma 1 to 3 there is nothing to say.

use super::number::grouped;
use gemma_mlp::checkpoint::{
    AltUpConfig, ExpertsConfig, LayerAttention, LayerKind, Layers, NormWeight, PerLayerInputs,
    RecurrentConfig, Rotated, StackInspection, ValuesFrom,
};

/// The width of the blocks: `6144, and 12288 in layers 15 to 34`.
pub fn widths(stack: &StackInspection) -> String {
    let mut widths = vec![];
    for kind in &stack.layers {
        if !widths.contains(&kind.intermediate_size) {
            widths.push(kind.intermediate_size);
        }
    }
    let of = |width: usize| layers(stack, |kind| kind.intermediate_size == width);
    let mut text = stack.intermediate_size.to_string();
    for &width in widths.iter().filter(|&&width| width != stack.intermediate_size) {
        text += &format!(", and {width} in {}", Layers(&of(width)));
    }
    text
}

/// The layers of some kinds, in order.
fn layers(stack: &StackInspection, is_meant: impl Fn(&LayerKind) -> bool) -> Vec<usize> {
    let kinds = stack.layers.iter().filter(|kind| is_meant(kind));
    let mut layers: Vec<_> = kinds.flat_map(|kind| kind.layers.iter().copied()).collect();
    layers.sort_unstable();
    layers
}

/// Rows of what a stack has that Gemma 1 to 3 do not have.
pub fn surroundings(stack: &StackInspection) -> Vec<[String; 2]> {
    let mut rows: Vec<[String; 2]> = vec![];
    let mut row = |name: &str, text: String| rows.push([name.into(), text]);
    for kind in first_of_each(&stack.layers, |kind| kind.sparsity) {
        let sparse = layers(stack, |other| other.sparsity == kind.sparsity);
        if kind.sparsity > 0.0 {
            let text = format!("of the gate's values are set to 0 in {}", Layers(&sparse));
            row("sparsity", format!("{} {text}", kind.sparsity));
        }
    }
    if let Some(ExpertsConfig { num_experts, top_k, intermediate_size }) = stack.experts {
        let text = format!(
            "{num_experts} of intermediate {intermediate_size}, of which a token gets {top_k}"
        );
        row("experts", format!("{text}, beside each block"));
    }
    if let Some(PerLayerInputs { size, vocab_size, .. }) = stack.per_layer_inputs {
        let table =
            vocab_size.map(|rows| format!("a table of {} words and from ", grouped(rows as u64)));
        let text =
            format!("{size} numbers for each, from {}the embeddings", table.unwrap_or_default());
        row("layer inputs", text);
    }
    if let Some(AltUpConfig { inputs, active, laurel_rank, .. }) = stack.altup {
        let text =
            format!("{inputs}, of which number {active} is computed and the others follow (AltUp)");
        row("streams", format!("{text}; beside attention a path of rank {laurel_rank} (Laurel)"));
    }
    if let Some(heads) = stack.num_attention_heads.filter(|_| has_odd_heads(&stack.layers)) {
        for kind in first_of_each(&stack.layers, |kind| kind.attention) {
            let alike = layers(stack, |other| other.attention == kind.attention);
            if let Some(text) = kind.attention.map(|own| heads_of(&own, heads)) {
                row("heads", format!("{}: {text}", Layers(&alike)));
            }
        }
    }
    let mut recurrent = false;
    for kind in first_of_each(&stack.layers, |kind| kind.recurrence) {
        let alike = layers(stack, |other| other.recurrence == kind.recurrence);
        if let Some(RecurrentConfig { width, heads, conv_width }) = kind.recurrence {
            recurrent = true;
            let text = format!(
                "{width} wide in {heads} parts, behind a convolution over {conv_width} positions"
            );
            row("recurrence", format!("{}: {text}, in place of attention", Layers(&alike)));
        }
    }
    if stack.norm_weight == NormWeight::Plain {
        row("norms", "scale by w, where those of Gemma 1 to 3 scale by 1 + w".into());
    }
    if stack.layer_scalar {
        row("layer_scalar", "a factor on the residual stream at the end of each layer".into());
    }
    if stack.gates != stack.num_hidden_layers {
        let kinds = [
            (true, "each block"),
            (stack.experts.is_some(), "its experts"),
            (stack.per_layer_inputs.is_some(), "its layer's input"),
            (recurrent, "each recurrence"),
        ];
        let kinds = kinds.into_iter().filter_map(|(has, kind)| has.then_some(kind));
        let kinds: Vec<_> = kinds.collect();
        row("GELUs", format!("{} follow the activation: of {}", stack.gates, kinds.join(" and ")));
    }
    rows
}

/// The first kind of each value.
fn first_of_each<T: PartialEq>(
    kinds: &[LayerKind],
    value: impl Fn(&LayerKind) -> T,
) -> impl Iterator<Item = &LayerKind> {
    let is_first = move |(i, kind): &(usize, &LayerKind)| {
        kinds[..*i].iter().all(|earlier| value(earlier) != value(kind))
    };
    kinds.iter().enumerate().filter(is_first).map(|(_, kind)| kind)
}

/// Whether attention has more kinds than windows and bases of rotation make.
fn has_odd_heads(kinds: &[LayerKind]) -> bool {
    let heads = |kind: &LayerKind| {
        kind.attention.map(|own| (own.num_key_value_heads, own.head_dim, own.rotated))
    };
    let odd = |kind: &LayerKind| {
        kind.attention.is_some_and(|own| {
            own.shares.is_some() || own.values == ValuesFrom::Keys || own.rotated != Rotated::All
        })
    };
    kinds.iter().any(odd) || kinds.iter().any(|kind| heads(kind) != heads(&kinds[0]))
}

/// The heads of a layer: `8 of width 512, 1 for keys and values; every position; rotary base 10000`.
fn heads_of(own: &LayerAttention, heads: usize) -> String {
    let whose = match (own.shares, own.values) {
        (Some(earlier), _) => format!(" (those of layer {earlier})"),
        (None, ValuesFrom::Keys) => " (of one projection)".into(),
        (None, ValuesFrom::Projection) => String::new(),
    };
    let seen = match own.sliding_window {
        Some(window) => format!("window {window}"),
        None => "every position".into(),
    };
    let factor = match own.rope_factor {
        1.0 => String::new(),
        factor => format!(", positions divided by {factor}"),
    };
    let part = match own.rotated {
        Rotated::All => String::new(),
        Rotated::Pairs(pairs) => format!(", {pairs} of {} pairs", own.head_dim / 2),
        Rotated::First(width) => format!(", the first {width} numbers"),
    };
    format!(
        "{heads} of width {}, {} for keys and values{whose}; {seen}; rotary base {}{factor}{part}",
        own.head_dim, own.num_key_value_heads, own.rope_theta
    )
}
