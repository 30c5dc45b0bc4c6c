//! What the page of one run consists of.

use super::html::{Section, badge, document, facts, figures, plot};
use crate::report::charts::{Plot, Run, drift_plots, shown};
use crate::report::drift::pair;
use crate::report::escape::escape;
use crate::report::number::{grouped, pretty};
use crate::report::verdict::{NAT, NOISE_FLOOR, Words};
use gemma_mlp_drift::drift::{Drift, EXCERPT, TokenDrift};
use gemma_mlp_drift::input::InputKind;
use std::fmt::Write;

pub(super) fn page(drift: &Drift) -> String {
    let title = format!("Drift: {}", Words::new(drift, pretty).headline());
    document(&title, &header(drift), &sections(drift), &footer(drift))
}

/// The verdict in a sentence, and the figures that it rests on.
fn header(drift: &Drift) -> String {
    let words = Words::new(drift, pretty);
    let mut html = format!(
        "<p class=\"kicker\">gemma-mlp drift · {} · {} tokens</p>\n<h1>{}</h1>\n<p class=\"lead\">{}</p>\n\
         <p class=\"gloss\">The noise floor is {NOISE_FLOOR}; nats are the unit of KL divergence, how far two \
         distributions are apart: {NAT}.</p>\n<p>{}</p>\n",
        escape(&drift.header.checkpoint.source),
        grouped(drift.tokens as u64),
        escape(&words.headline()),
        escape(&words.evidence()),
        badge(drift.verdict.size)
    );
    html += &figures(&key_figures(drift));
    if !drift.header.warnings.is_empty() || !drift.complete {
        html += "<ul class=\"warnings\">";
        if !drift.complete {
            html += "<li>This is a part of the run: not all windows of the texts are in.</li>";
        }
        for warning in &drift.header.warnings {
            let _ = write!(html, "<li>{}</li>", escape(warning));
        }
        html += "</ul>\n";
    }
    html
}

fn key_figures(drift: &Drift) -> Vec<[String; 3]> {
    let mut all = vec![];
    if let (Some(own), Some(floor)) = (&drift.logits, &drift.floor.logits) {
        let ratio = own.kl_mean_nats / floor.kl_mean_nats;
        all.push([
            "Mean KL divergence, nats".into(),
            pretty(own.kl_mean_nats),
            format!("noise floor {}, ratio {}", pretty(floor.kl_mean_nats), pretty(ratio)),
        ]);
        all.push([
            "Same likeliest token".into(),
            format!("{:.2} %", 100.0 * own.top1_agreement),
            format!(
                "{} of {} change; noise floor {:.2} %",
                drift.flip_count,
                grouped(drift.tokens as u64),
                100.0 * floor.top1_agreement
            ),
        ]);
        all.push([
            "Perplexity of b".into(),
            format!("{:.4}", own.ppl_b),
            format!("of a {:.4}; ± {:.4}", own.ppl_a, own.ppl_a_se),
        ]);
    }
    let output =
        drift.layers.iter().max_by(|a, b| a.drift.output.rel_l2.total_cmp(&b.drift.output.rel_l2));
    if let Some(layer) = output {
        all.push([
            "Farthest block, relative L2".into(),
            pretty(layer.drift.output.rel_l2),
            format!("layer {}; its noise floor {}", layer.index, pretty(layer.floor.output.rel_l2)),
        ]);
    }
    all
}

/// All sections that there is data for.
fn sections(drift: &Drift) -> Vec<Section> {
    let plots = drift_plots(&[Run { name: "", drift }]);
    let drawn = |id: &str| plots.iter().find(|p| p.chart.id == id).map(plot);
    let mut sections = vec![];
    let mut add = |id, name, heading: String, how_to_read: &str, content: Option<String>| {
        let how_to_read = how_to_read.to_string();
        sections.extend(content.map(|content| Section { id, name, heading, how_to_read, content }));
    };
    let title = |id: &str| {
        let of: Option<&Plot> = plots.iter().find(|p| p.chart.id == id);
        of.map_or(String::new(), |p| p.chart.title.clone())
    };
    add(
        "compared",
        "Compared",
        "What was compared".into(),
        "Side b against side a, and beside it the noise floor: one and the same activation in two dtypes, what rounding alone does.",
        Some(compared(drift)),
    );
    add(
        "distribution",
        "Distribution",
        title("divergence"),
        "KL divergence of b's distribution of the next token from a's, over all positions. A drift whose dots lie left of the noise floor's disappears in rounding.",
        drawn("divergence"),
    );
    let on = match drift.layers.first().map(|layer| layer.input) {
        Some(InputKind::Gaussian) => {
            "Each block on Gaussian noise through its own norm, because the model around it does not run here."
        }
        _ => "How far a block's output moves if both sides get the same input.",
    };
    let layers =
        format!("{on} Layers whose dot is above the dashed line change more than rounding does.");
    add(
        "layers",
        "Layers",
        "Layer by layer, each block on one input".into(),
        &layers,
        drawn("layers"),
    );
    add(
        "residual",
        "Residual stream",
        "What accumulates in the residual stream".into(),
        "Each side runs on its own stream: what earlier layers changed goes on and adds up, or is averaged out.",
        drawn("residual"),
    );
    let sides = &drift.header.sides;
    let (heading, how_to_read) = if sides.a.activation == sides.b.activation {
        (
            "Where the gates lie",
            "The activation is taken of the gates, and is the same on both sides.",
        )
    } else {
        (
            "Why this model drifts as it does",
            "The activation is taken of the gates. Bars show where they lie, the line where the two activations differ: a model drifts as much as its gates lie under the line's humps.",
        )
    };
    add("gates", "Gates", heading.into(), how_to_read, drawn("gates"));
    add(
        "positions",
        "Positions",
        title("positions"),
        "Each dot is what the model says after reading so much of the text. The noise floor is measured on the first tokens of each window.",
        drawn("positions"),
    );
    let worst = (!drift.worst.is_empty()).then(|| tokens(&drift.worst));
    add(
        "worst",
        "Worst tokens",
        "The positions that move most, in their context".into(),
        "Marked is the token that follows in the text. The margin is how far the likeliest logit is above the next one.",
        worst,
    );
    if drift.logits.is_some() {
        let heading = match drift.flip_count {
            0 => "No likeliest token changes".to_string(),
            1 => "One likeliest token changes".into(),
            n => format!("{} likeliest tokens change", grouped(n as u64)),
        };
        let how_to_read = match drift.flip_count {
            0 => "Both sides hold the same token for the likeliest at every position.",
            _ => {
                "A flip of a small margin is a coin on its edge; one of a large margin is a changed mind. The most decided ones of side a come first."
            }
        };
        add("flips", "Flips", heading, how_to_read, Some(drawn("flips").unwrap_or_default()));
    }
    add(
        "gradients",
        "Gradients",
        "What a training step would see".into(),
        "Relative L2 of the mean loss's gradient for each matrix, dashed what rounding alone does to it.",
        drawn("gradients"),
    );
    add(
        "ranking",
        "Porting differences",
        "What other differences would do".into(),
        "Mistakes that ports of this family make, one at a time against side a on the same text. A mismatch of unknown cause is likely one of its size.",
        drawn("ranking"),
    );
    add(
        "origin",
        "Origin",
        "How this was measured".into(),
        "Enough to run it again.",
        Some(origin(drift)),
    );
    sections
}

fn compared(drift: &Drift) -> String {
    let header = &drift.header;
    let checkpoint = &header.checkpoint;
    let windows = match header.windows {
        1 => String::new(),
        n => format!(
            " in {n} windows of at most {}, each ending {} behind the last",
            header.window, header.stride
        ),
    };
    let texts =
        if header.texts == 1 { "one text".into() } else { format!("{} texts", header.texts) };
    let mut all = vec![
        ("Side a", header.sides.a.to_string()),
        ("Side b", header.sides.b.to_string()),
        (
            "Noise floor",
            format!(
                "{}, on {} tokens",
                pair(&header.floor_sides),
                grouped(drift.floor.tokens as u64)
            ),
        ),
        ("Model", format!("{}, {} blocks", checkpoint.family, checkpoint.blocks)),
        ("Weights", format!("{}, in {}", checkpoint.source, checkpoint.dtype)),
        (
            "Its activation",
            format!("{}: {}", checkpoint.activation.value, checkpoint.activation.reason),
        ),
        ("Text", format!("{texts}, {} tokens{windows}", grouped(drift.tokens as u64))),
    ];
    if let Some(excerpt) = &header.excerpt {
        let (name, more) =
            if drift.tokens > EXCERPT { ("It begins", "…") } else { ("It reads", "") };
        all.push((name, format!("“{}{more}”", excerpt.trim())));
    }
    facts(&all)
}

fn origin(drift: &Drift) -> String {
    let (header, origin) = (&drift.header, &drift.origin);
    let mut html = facts(&[
        ("Program", format!("gemma-mlp {}, candle {}", header.version, origin.candle)),
        ("Machine", format!("{}; computed on {}", origin.machine, header.device)),
        ("Layout", format!("version {} of the JSON report", header.schema)),
    ]);
    if let Some(command) = &origin.command {
        let _ = writeln!(html, "<p class=\"code\">$ {}</p>", escape(command));
    }
    html
}

/// As many as are shown without being asked for.
const TOKENS: usize = 8;

fn tokens(worst: &[TokenDrift]) -> String {
    let (first, rest) = worst.split_at(worst.len().min(TOKENS));
    let mut html = token_list(first, 1);
    if !rest.is_empty() {
        let more = token_list(rest, TOKENS + 1);
        let _ = writeln!(html, "<details><summary>{} more</summary>\n{more}</details>", rest.len());
    }
    html
}

fn token_list(tokens: &[TokenDrift], start: usize) -> String {
    let mut html = format!("<ol class=\"tokens\" start=\"{start}\">\n");
    for token in tokens {
        let context = token.context.clone().unwrap_or_default();
        let next = match &token.next {
            Some(next) => visible(&next.text.clone().unwrap_or_else(|| format!("[{}]", next.id))),
            None => "end of the text".into(),
        };
        let probability = match token.next_probability {
            Some([a, b]) => {
                format!(
                    "; what follows has a probability of {} under a, {} under b",
                    pretty(a),
                    pretty(b)
                )
            }
            None => String::new(),
        };
        let [a, b] = [0, 1].map(|side| {
            format!(
                "<b>{}</b> (margin {})",
                escape(&shown(&token.likeliest[side])),
                pretty(token.margins[side])
            )
        });
        let says = if token.likeliest[0].id == token.likeliest[1].id {
            format!("Both say {a}")
        } else {
            format!("a says {a}, b says {b}")
        };
        // A space in front belongs to the token, but a mark that begins with one is ugly.
        let space = if next.starts_with(' ') { " " } else { "" };
        let _ = writeln!(
            html,
            "<li><div class=\"kl\">{}<small>position {}</small></div><div>\
             <p class=\"context\"><bdi>{}</bdi>{space}<mark dir=\"auto\">{}</mark></p><p>{says}{}.</p></div></li>",
            pretty(token.kl_nats),
            grouped(token.position as u64),
            escape(visible(&context).trim_start()),
            escape(match next.trim_start_matches(' ') {
                "" => "␣",
                word => word,
            }),
            escape(&probability)
        );
    }
    html + "</ol>\n"
}

/// Text with its line breaks and tabs to be seen.
fn visible(text: &str) -> String {
    text.replace('\n', "↵").replace('\t', "⇥")
}

fn footer(drift: &Drift) -> String {
    format!(
        "<p>Relative L2 is ‖b − a‖/‖a‖. KL, Δp and perplexity are those of llama.cpp's \
         --kl-divergence, summed in f64. The rule of the verdict is the ratio of drift to noise floor, \
         of the mean KL divergence; docs/drift.md has every definition.</p>\n\
         <p>Made by gemma-mlp {}. This page asks for nothing from elsewhere.</p>\n",
        escape(&drift.header.version)
    )
}
