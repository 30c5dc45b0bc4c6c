//! What stands above and below the sections of a page.

use super::html::{badge, figures};
use crate::report::number::{grouped, measured, percent, pretty};
use crate::report::run::Run;
use crate::report::verdict::{NAT, NOISE_FLOOR, Words};
use gemma_mlp_drift::drift::{Drift, Score};
use maud::{Markup, html};

pub(super) struct Header {
    /// Of the window.
    pub(super) title: String,
    pub(super) top: Markup,
    pub(super) footer: Markup,
}

pub(super) fn of(runs: &[Run]) -> Header {
    match runs {
        [Run { drift, .. }] => single(drift),
        runs => side_by_side(runs),
    }
}

/// The verdict in words, and the figures that it rests on.
fn single(drift: &Drift) -> Header {
    let words = Words::new(drift, pretty);
    let (header, headline) = (&drift.header, words.headline());
    let top = html! {
        p.kicker {
            "gemma-mlp drift · " (header.checkpoint.source) " · " (grouped(drift.tokens as u64)) " tokens"
        }
        h1 { (headline) }
        p.lead { (words.evidence()) }
        p.gloss {
            "The noise floor is " (NOISE_FLOOR) ". KL divergence says how far two distributions are apart, in \
             nats: " (NAT) "."
        }
        p { (badge(drift)) }
        (figures(&key_figures(drift)))
        @if !header.remarks.is_empty() || !drift.complete {
            ul.warnings {
                @if !drift.complete {
                    li { "This is a part of the run: not all windows of the texts are in." }
                }
                @for remark in &header.remarks { li { (remark) } }
            }
        }
    };
    let footer = html! {
        p {
            "Relative L2 is ‖b − a‖/‖a‖. KL, Δp and perplexity are defined as in llama.cpp's --kl-divergence, \
             and summed in f64; " (scored(header.score)) ". The rule of the verdict is the ratio of drift to noise floor, of the mean KL \
             divergence; docs/drift.md has every definition."
        }
        p { "Made by gemma-mlp " (header.version) ". This page loads nothing from the network." }
    };
    Header { title: format!("Drift: {headline}"), top, footer }
}

/// Which positions count, and that llama.cpp's are others or the same.
fn scored(score: Score) -> &'static str {
    match score {
        Score::All => {
            "all positions are scored, where llama.cpp scores the second half of each chunk"
        }
        Score::SecondHalf => "as there, the second half of each chunk is scored",
    }
}

fn side_by_side(runs: &[Run]) -> Header {
    let names: Vec<_> = runs.iter().map(|run| run.name).collect();
    Header {
        title: format!("Drift: {}", names.join(" and ")),
        top: html! {
            p.kicker { "gemma-mlp report" }
            h1 { (runs.len()) " runs side by side" }
        },
        footer: html! { p { "This page loads nothing from the network." } },
    }
}

fn key_figures(drift: &Drift) -> Vec<[String; 3]> {
    let mut all = vec![];
    let digits = |x: f64| format!("{x:.4}");
    if let (Some(own), Some(floor)) = (&drift.logits, &drift.floor.logits) {
        let ratio = own.kl_mean_nats / floor.kl_mean_nats;
        all.push([
            "Mean KL divergence, nats".into(),
            measured(own.kl_mean_nats, pretty),
            format!(
                "noise floor {}, ratio {}",
                measured(floor.kl_mean_nats, pretty),
                measured(ratio, pretty)
            ),
        ]);
        all.push([
            "Same likeliest token".into(),
            percent(own.top1_agreement),
            format!(
                "{} of {} change; noise floor {}",
                drift.flip_count,
                grouped(drift.tokens as u64),
                percent(floor.top1_agreement)
            ),
        ]);
        all.push([
            "Perplexity of b".into(),
            measured(own.ppl_b, digits),
            format!("of a {}; ± {}", measured(own.ppl_a, digits), measured(own.ppl_a_se, digits)),
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
