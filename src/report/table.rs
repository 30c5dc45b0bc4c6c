//! Results as aligned text for a terminal.

use super::number::{grouped, short};
use crate::activation::Activation;
use crate::checkpoint::{Inspection, Resolved, StackInspection};
use crate::drift::{Drift, LayerDrift, Metrics, Side, Sides};
use crate::model::{BlockSummary, ForwardSummary, InputKind, Stats};
use std::fmt::Write;

/// The table that `gemma-mlp drift` prints.
pub fn drift_table(drift: &Drift) -> String {
    let checkpoint = &drift.checkpoint;
    let mut text = String::new();
    let mut line = |s: String| text.extend([&s, "\n"]);
    line(format!(
        "{}: {}, {} blocks, weights in {}",
        checkpoint.source, checkpoint.family, checkpoint.blocks, checkpoint.dtype
    ));
    line(activation_line(&checkpoint.activation));
    line(format!("drift:  {}", pair(&drift.sides)));
    line(format!(
        "floor:  {}, the same pass in two precisions: what rounding alone does",
        pair(&drift.floor_sides)
    ));
    line(input_line(drift.tokens, drift.batch, drift.layers.iter().map(|layer| layer.input)));
    line(String::new());
    text += &drift_rows(&drift.layers);
    text += &conclusion(drift);
    text += &warnings(&drift.warnings);
    text
}

fn pair(Sides { a, b }: &Sides) -> String {
    let Side { activation, dtype } = a;
    if dtype == &b.dtype {
        format!("{} against {activation}, both in {}", b.activation, dtype.as_str())
    } else {
        format!("{b} against {a}")
    }
}

fn drift_rows(layers: &[LayerDrift]) -> String {
    let mut rows = vec![
        ["", "", "", "drift", "", "", "", "floor", "", "", "", "drift/floor"].map(String::from),
        [
            "layer", "input", "at", "max abs", "RMS", "rel L2", "1-cos", "max abs", "RMS",
            "rel L2", "1-cos", "rel L2",
        ]
        .map(String::from),
    ];
    for layer in layers {
        let points = [
            ("activation", layer.drift.activation, layer.floor.activation),
            ("product", layer.drift.product, layer.floor.product),
            ("output", layer.drift.output, layer.floor.output),
        ];
        for (i, (at, drift, floor)) in points.into_iter().enumerate() {
            let first = |s: String| if i == 0 { s } else { String::new() };
            let ([d1, d2, d3, d4], [f1, f2, f3, f4]) = (figures(drift), figures(floor));
            let ratio = short(drift.rel_l2 / floor.rel_l2);
            let (index, input) = (first(layer.index.to_string()), first(layer.input.name().into()));
            rows.push([index, input, at.into(), d1, d2, d3, d4, f1, f2, f3, f4, ratio]);
        }
    }
    align(&rows, 3)
}

fn figures(m: Metrics) -> [String; 4] {
    [m.max_abs, m.rms, m.rel_l2, 1.0 - m.cosine].map(short)
}

/// The layer where the sides are farthest apart, in one sentence.
fn conclusion(drift: &Drift) -> String {
    let worst =
        drift.layers.iter().max_by(|a, b| a.drift.output.rel_l2.total_cmp(&b.drift.output.rel_l2));
    let Some(layer) = worst else { return String::new() };
    let (d, f) = (layer.drift.output.rel_l2, layer.floor.output.rel_l2);
    format!(
        "\nFarthest apart at layer {}: its output moves by {} of its norm, {} times the floor.\n",
        layer.index,
        short(d),
        short(d / f)
    )
}

/// The table that `gemma-mlp forward` prints.
pub fn forward_table(forward: &ForwardSummary) -> String {
    let mut text = format!("{}, computed in {}\n", forward.checkpoint, forward.dtype);
    if let Some(first) = forward.layers.first() {
        let _ = writeln!(text, "{}", activation_line(&first.activation));
    }
    text +=
        &input_line(forward.tokens, forward.batch, forward.layers.iter().map(|layer| layer.input));
    text += "\n\n";
    text += &forward_rows(&forward.layers);
    text += &warnings(&forward.warnings);
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
    let mut text = align(&rows, 2);
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
                "{}, of them {} in MLPs",
                grouped(inspection.parameters),
                grouped(inspection.mlp_parameters)
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
    let width = rows.iter().map(|[key, _]| key.len()).max().unwrap_or(0);
    let mut text: String =
        rows.iter().map(|[key, value]| format!("{key:width$}  {value}\n")).collect();
    text += &warnings(&inspection.warnings);
    text
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
                stack.num_hidden_layers, stack.hidden_size, stack.intermediate_size
            ),
        ],
        [key("first block"), stack.first_block.clone()],
        [key("activation"), format!("{value}: {reason}")],
        [key("attention"), stack.attention.clone()],
    ];
    if !stack.defaults.is_empty() {
        rows.push([
            key("defaults"),
            format!("the config leaves out {}", stack.defaults.join(", ")),
        ]);
    }
    rows
}

fn activation_line(Resolved { value, reason }: &Resolved<Activation>) -> String {
    format!("activation: {value}: {reason}")
}

fn input_line(tokens: usize, batch: usize, inputs: impl Iterator<Item = InputKind>) -> String {
    let texts = if batch == 1 { String::new() } else { format!("{batch} texts of ") };
    let mut line = format!("input:  {texts}{tokens} tokens");
    let inputs: Vec<_> = inputs.collect();
    if inputs.contains(&InputKind::Model) {
        line += "; \"model\" is the layer's own input, computed from them";
    }
    if inputs.contains(&InputKind::Gaussian) {
        line += "; \"gaussian\" is noise of RMS 1 through the layer's own norm";
    }
    line
}

fn warnings(warnings: &[String]) -> String {
    warnings.iter().map(|warning| format!("warning: {warning}\n")).collect()
}

/// Columns of one width each, the first `left` of them flush left.
fn align<const N: usize>(rows: &[[String; N]], left: usize) -> String {
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = if column < left {
                write!(line, "{cell:<width$}  ")
            } else {
                write!(line, "{cell:>width$}  ")
            };
        }
        text.extend([line.trim_end(), "\n"]);
    }
    text
}
