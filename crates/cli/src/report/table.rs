//! Forward passes and inspections as aligned text for a terminal.

use super::align::{activation_line, align, remarks};
use super::escape::plain;
use super::number::{grouped, short};
use super::surroundings::{surroundings, widths};
use gemma_mlp::checkpoint::{HeadKind, Inspection, Resolved, StackInspection};
use gemma_mlp_drift::forward::{BlockSummary, ForwardSummary, Stats, TopToken};
use std::fmt::Write;

/// The table that `gemma-mlp forward` prints.
pub fn forward_table(forward: &ForwardSummary) -> String {
    let mut text = plain(&format!("{}, computed in {}", forward.checkpoint, forward.dtype)) + "\n";
    if let Some(first) = forward.layers.first() {
        let _ = writeln!(text, "{}", activation_line(&first.activation));
    }
    text += &input_line(forward);
    text += "\n\n";
    text += &forward_rows(&forward.layers);
    text += &top_rows(&forward.top);
    text += &remarks(&forward.remarks);
    text
}

fn forward_rows(layers: &[BlockSummary]) -> String {
    let mut rows = vec![
        ["", "", "gate", "", "up", "", "activated", "", "product", "", "output", ""]
            .map(String::from),
        ["layer", "input", "RMS", "max", "RMS", "max", "RMS", "max", "RMS", "max", "RMS", "max"]
            .map(String::from),
    ];
    for layer in layers {
        let parts = [layer.gate, layer.up, layer.activated, layer.product, layer.output];
        let cells =
            parts.into_iter().flat_map(|Stats { rms, max_abs, .. }| [short(rms), short(max_abs)]);
        let head = [layer.index.to_string(), layer.input.name().into()];
        let row: Vec<String> = head.into_iter().chain(cells).collect();
        rows.extend(<[String; 12]>::try_from(row));
    }
    let mut text = align(rows, 2);
    for layer in layers {
        let parts = [layer.gate, layer.up, layer.activated, layer.product, layer.output];
        let nonfinite: usize = parts.iter().map(|part| part.nonfinite).sum();
        if nonfinite > 0 {
            let _ = writeln!(
                text,
                "warning: layer {}: {nonfinite} values are NaN or infinite",
                layer.index
            );
        }
    }
    text
}

fn head_line(stack: &StackInspection) -> String {
    let Resolved { value, reason } = &stack.head;
    let which = match value {
        HeadKind::Embedding => "the embedding",
        HeadKind::Separate => "a separate matrix",
        HeadKind::None => return format!("none: {reason}"),
    };
    format!("{which}, {} words: {reason}", grouped(stack.vocab_size as u64))
}

/// The likeliest tokens to follow each text.
fn top_rows(top: &[Vec<TopToken>]) -> String {
    let mut text = String::new();
    for (i, tokens) in top.iter().enumerate() {
        let which = if top.len() == 1 { String::new() } else { format!(" text {i}") };
        let _ = writeln!(text, "\nlikeliest to follow{which}:");
        let mut rows = vec![["token", "id", "logit", "probability"].map(String::from)];
        for token in tokens {
            let shown = token.text.as_ref().map_or(String::new(), |text| format!("{text:?}"));
            let [logit, probability] = [token.logit, token.probability].map(short);
            rows.push([shown, token.id.to_string(), logit, probability]);
        }
        text += &align(rows, 1);
    }
    text
}

/// What `gemma-mlp inspect` prints.
pub fn inspect_table(inspection: &Inspection) -> String {
    let dtypes =
        inspection.dtypes.iter().map(|(dtype, n)| format!("{n} in {dtype}")).collect::<Vec<_>>();
    let mut rows = vec![
        ["checkpoint".to_string(), inspection.source.clone()],
        [
            "family".to_string(),
            format!("{} (model_type {})", inspection.family, inspection.model_type),
        ],
        [
            "parameters".to_string(),
            format!(
                "{}, of them {} in MLPs{}",
                grouped(inspection.parameters),
                grouped(inspection.mlp_parameters),
                match inspection.expert_parameters {
                    0 => String::new(),
                    experts => format!(" and {} in experts", grouped(experts)),
                }
            ),
        ],
        [
            "tensors".to_string(),
            format!("{}; {} bytes", dtypes.join(", "), grouped(inspection.bytes)),
        ],
    ];
    for stack in &inspection.stacks {
        rows.extend(stack_rows(stack));
    }
    let end_tokens: Vec<_> = inspection.end_tokens.iter().map(u32::to_string).collect();
    rows.push(["end tokens".to_string(), end_tokens.join(", ")]);
    let rows = rows.into_iter().map(|row| row.map(|cell| plain(&cell)));
    align(rows, 2) + &remarks(&inspection.remarks)
}

fn stack_rows(stack: &StackInspection) -> Vec<[String; 2]> {
    let key = |name: &str| {
        if stack.name.is_empty() { name.to_string() } else { format!("{} {name}", stack.name) }
    };
    let gate_up = if stack.fused_gate_up { "fused" } else { "separate" };
    let bias = if stack.mlp_bias { "with" } else { "without" };
    let Resolved { value, reason } = &stack.activation;
    let mut rows = vec![
        [
            key("blocks"),
            format!(
                "{} of hidden {} x intermediate {}, gate and up {gate_up}, {bias} biases",
                stack.num_hidden_layers,
                stack.hidden_size,
                widths(stack)
            ),
        ],
        [key("first block"), stack.first_block.clone()],
        [key("activation"), format!("{value}: {reason}")],
        [key("attention"), stack.attention.clone()],
        [key("head"), head_line(stack)],
    ];
    rows.extend(surroundings(stack).into_iter().map(|[name, text]| [key(&name), text]));
    if let Some(whose) = &stack.judged_by {
        rows.push([key("judged by"), format!("the values of {whose}")]);
    }
    if !stack.defaults.is_empty() {
        rows.push([
            key("defaults"),
            format!("the config leaves out {}", stack.defaults.join(", ")),
        ]);
    }
    rows
}

fn input_line(forward: &ForwardSummary) -> String {
    let texts =
        if forward.batch == 1 { String::new() } else { format!("{} texts of ", forward.batch) };
    let mut line = format!("input:  {texts}{} tokens", forward.tokens);
    if let Some(why) = &forward.blocks_only {
        let noise = "; \"gaussian\" is noise of RMS 1 through the layer's own norm: ";
        line.extend([noise, &plain(why)]);
    }
    line
}
