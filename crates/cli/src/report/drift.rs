//! A drift run as aligned text for a terminal.

use super::align::{activation_line, align, remarks};
use super::escape::plain;
use super::figures;
use super::number::{grouped, measured, percent, short};
use super::paint::{Paint, Tone};
use super::sparkline::sparkline;
use super::verdict::{NAT, NOISE_FLOOR, Words, is_hidden_mistake};
use gemma_mlp::Rounding;
use gemma_mlp_drift::drift::{
    Drift, GradientDrift, LayerDrift, Ranked, ResidualDrift, Score, Sides, Size,
};
use std::fmt::Write;

/// The table that `gemma-mlp drift` prints.
pub fn drift_table(drift: &Drift, paint: Paint) -> String {
    let header = &drift.header;
    let checkpoint = &header.checkpoint;
    let mut text = String::new();
    let mut line = |s: String| text.extend([&s, "\n"]);
    line(plain(&format!(
        "{}: {}, {} layers, weights in {}",
        checkpoint.source, checkpoint.family, checkpoint.blocks, checkpoint.dtype
    )));
    line(activation_line(&checkpoint.activation));
    line(format!("drift:  {}", pair(&header.sides)));
    let on = match drift.floor.tokens {
        all if all == drift.tokens => String::new(),
        some => format!(", on the first {}", grouped(some as u64)),
    };
    let floor = pair(&header.floor_sides);
    line(format!("floor:  {floor}: the noise floor, {NOISE_FLOOR}{on}"));
    line(tokens_line(drift));
    if let Some(gates) = gates(drift) {
        line(format!("GELUs:  {gates}"));
    }
    if drift.logits.is_some() {
        line(format!("KL:     how far the next token's distributions are apart, in nats; {NAT}"));
    }
    line(String::new());
    text += &layer_rows(drift, paint);
    if drift.logits.is_some() {
        text += "\n";
        text += &logit_rows(drift, paint);
    }
    if drift.embedding.is_some() {
        text += "\n";
        let header = ["embeddings", "drift", "floor", "ratio"].map(String::from);
        let rows = figures::of_embedding(drift).into_iter().map(|(_, cells)| cells);
        text += &emphasised(&align(std::iter::once(header).chain(rows), 1), 1, paint);
    }
    if let Some(gradients) = &drift.gradients {
        text += "\n";
        text += &gradient_rows(gradients, paint);
    }
    if let Some(ranking) = &drift.ranking {
        text += "\n";
        text += &ranking_rows(ranking, paint);
    }
    let tone = match drift.verdict.size {
        _ if is_hidden_mistake(drift) => Tone::Notable,
        Size::None | Size::FarBelowFloor | Size::BelowFloor => Tone::Good,
        Size::AboveFloor | Size::FloorNotFinite => Tone::Notable,
        Size::FarAboveFloor | Size::NotFinite => Tone::Bad,
    };
    let _ = writeln!(text, "\n{}", paint.paint(tone, Words::new(drift, short).text()));
    text += &remarks(&header.remarks);
    text
}

pub(super) fn pair(Sides { a, b }: &Sides) -> String {
    let alike = a.model() == b.model() && a.rounding == b.rounding;
    if alike && a.rounding == Rounding::Once {
        format!("{} against {}, both in {}", b.activation, a.activation, a.model())
    } else {
        format!("{b} against {a}")
    }
}

fn tokens_line(drift: &Drift) -> String {
    let header = &drift.header;
    let mut line = format!("input:  {} tokens", grouped(drift.tokens as u64));
    if header.texts > 1 {
        let _ = write!(line, " of {} texts", header.texts);
    }
    if header.windows > header.texts {
        let _ = write!(
            line,
            ", in {} windows of at most {}, each ending {} tokens after the one before",
            header.windows, header.window, header.stride
        );
    }
    if !drift.complete {
        line += " (a part of the run)";
    }
    if header.score == Score::SecondHalf {
        line += ", scored in the second half of each window, as llama.cpp does";
    }
    if let Some(why) = &header.blocks_only {
        let noise = "; blocks only, on Gaussian noise (RMS 1) through their own norm: ";
        line.extend([noise, &plain(why)]);
    }
    line
}

/// How many GELUs follow the switch, where they are more than the blocks'.
pub(super) fn gates(drift: &Drift) -> Option<String> {
    let (gates, blocks) = (drift.header.gates, drift.header.checkpoint.blocks);
    let more = gates.checked_sub(blocks).filter(|&more| more > 0)?;
    Some(format!(
        "{gates} follow the switch: those of {blocks} blocks, and {more} in experts, gates of per-layer inputs and the \
         like, which show in the residual stream"
    ))
}

fn layer_rows(drift: &Drift, paint: Paint) -> String {
    let mut rows = vec![
        ["", "activation", "block output", "", "", "", "residual stream", "", ""].map(String::from),
        ["layer", "max abs", "max abs", "rel L2", "floor", "ratio", "rel L2", "floor", "ratio"]
            .map(String::from),
    ];
    for (i, layer) in drift.layers.iter().enumerate() {
        let (output, floor) = (layer.drift.output, layer.floor.output.rel_l2);
        let residual = match drift.residual.get(i) {
            Some(r) => {
                let ratio = measured(r.rel_l2 / r.floor_rel_l2, short);
                [short(r.rel_l2), short(r.floor_rel_l2), ratio]
            }
            None => ["", "", ""].map(String::from),
        };
        let [r1, r2, r3] = residual;
        let [d1, d2, d3, d4] =
            [layer.drift.activation.max_abs, output.max_abs, output.rel_l2, floor].map(short);
        let d5 = measured(output.rel_l2 / floor, short);
        rows.push([layer.index.to_string(), d1, d2, d3, d4, d5, r1, r2, r3]);
    }
    let mut text = emphasised(&align(rows, 1), 2, paint);
    text += &layer_bars(drift, paint);
    if let Some(layer) = drift.first_above_floor {
        let _ = writeln!(text, "first layer above its noise floor: {layer}");
    }
    text
}

/// A table whose first lines are its header.
pub(super) fn emphasised(table: &str, header: usize, paint: Paint) -> String {
    let line = |(i, line): (usize, &str)| {
        let line = if i < header { paint.paint(Tone::Strong, line) } else { line.to_string() };
        line + "\n"
    };
    table.lines().enumerate().map(line).collect()
}

/// The shape of the drift over the layers, and of its floor.
fn layer_bars(drift: &Drift, paint: Paint) -> String {
    if drift.layers.len() < 3 {
        return String::new();
    }
    let of = |pick: fn(&LayerDrift) -> f64| drift.layers.iter().map(pick).collect();
    let mut lines: Vec<(&str, Tone, Vec<f64>)> = vec![
        ("block output", Tone::Series(0), of(|l| l.drift.output.rel_l2)),
        ("its floor", Tone::Faint, of(|l| l.floor.output.rel_l2)),
    ];
    if !drift.residual.is_empty() {
        let of = |pick: fn(&ResidualDrift) -> f64| drift.residual.iter().map(pick).collect();
        lines.push(("residual", Tone::Series(0), of(|r| r.rel_l2)));
        lines.push(("its floor", Tone::Faint, of(|r| r.floor_rel_l2)));
    }
    let mut text = "\n".to_string();
    for (name, tone, values) in lines {
        let ends = values.iter().copied().filter(|v| v.is_finite());
        let (low, high) =
            ends.fold((f64::INFINITY, 0.0), |(l, h): (f64, f64), v| (l.min(v), h.max(v)));
        let bars = paint.paint(tone, sparkline(&values));
        let _ = writeln!(text, "{name:<12}  {bars}  {} to {}", short(low), short(high));
    }
    text
}

/// The figures of the logits beside the floor's, and how many times those they are.
fn logit_rows(drift: &Drift, paint: Paint) -> String {
    let header = ["logits", "drift", "floor", "ratio"].map(String::from);
    let figures = figures::of_drift(drift).into_iter().map(|(_, cells)| cells);
    emphasised(&align(std::iter::once(header).chain(figures), 1), 1, paint)
}

fn gradient_rows(gradients: &GradientDrift, paint: Paint) -> String {
    let mut rows: Vec<Vec<String>> = vec![vec!["gradients".into()], vec!["layer".into()]];
    for (name, _) in gradients.gradients.iter().take(1).flat_map(|l| l.drift.matrices()) {
        rows[0].extend([name, ""].map(String::from));
        rows[1].extend(["rel L2", "floor"].map(String::from));
    }
    for layer in &gradients.gradients {
        let mut row = vec![layer.index.to_string()];
        for ((_, drift), (_, floor)) in layer.drift.matrices().zip(layer.floor.matrices()) {
            row.extend([drift, floor].map(|m| short(m.rel_l2)));
        }
        rows.push(row);
    }
    let [a, b] = gradients.loss;
    let mut text = emphasised(&align(rows, 1), 2, paint);
    let _ = writeln!(
        text,
        "mean loss over {} tokens: {a:.6} nats under a, {b:.6} under b; gradient of the input: rel L2 {}",
        gradients.gradient_tokens,
        short(gradients.input_gradient.rel_l2)
    );
    text
}

fn ranking_rows(ranking: &[Ranked], paint: Paint) -> String {
    let header =
        ["difference, one at a time", "KL mean, nats", "KL max", "same top", "rel L2", "ppl"];
    let mut rows = vec![header.map(String::from)];
    for ranked in ranking {
        rows.push([
            plain(&ranked.difference),
            measured(ranked.kl_mean_nats, short),
            measured(ranked.kl_max_nats, short),
            percent(ranked.top1_agreement),
            measured(ranked.rel_l2, short),
            measured(ranked.ppl, short),
        ]);
    }
    emphasised(&align(rows, 1), 1, paint)
}
