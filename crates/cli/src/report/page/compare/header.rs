//! What stands above and below the sections.

use crate::report::compared::full_name;
use crate::report::number::{grouped, measured, percent, pretty};
use crate::report::page::header::Header;
use crate::report::page::html::figures;
use crate::report::verdict::{NAT, NOISE_FLOOR};
use gemma_mlp_drift::compare::Comparison;
use maud::html;

pub(super) fn of(comparison: &Comparison) -> Header {
    let Comparison { theirs, first, .. } = comparison;
    let headline = match first {
        _ if comparison.agrees => "Nothing differs by more than rounding".to_string(),
        Some(first) => format!("It differs at {}", full_name(first.layer, &first.point)),
        None => "It differs".into(),
    };
    let [class, word] =
        if comparison.agrees { ["badge agrees", "agrees"] } else { ["badge differs", "differs"] };
    let top = html! {
        p.kicker {
            "gemma-mlp compare · " (theirs.source) " · " (grouped(theirs.tokens as u64)) " tokens"
        }
        h1 { (headline) }
        p.lead { (comparison.verdict) }
        p.gloss {
            "The noise floor is " (NOISE_FLOOR) ": " (comparison.floor.description) ". Up to "
            (comparison.threshold) " times of it counts as rounding."
        }
        p { span class=(class) { (word) } }
        (figures(&key_figures(comparison)))
        @if !comparison.remarks.is_empty() || !comparison.untold.is_empty() {
            ul.warnings {
                @for remark in &comparison.remarks { li { (remark) } }
                @for untold in &comparison.untold { li { "not told: " (untold) } }
            }
        }
    };
    let footer = html! {
        p {
            "Relative L2 is ‖theirs − ours‖/‖ours‖; cosine and norm ratio are of the same pair. KL divergence, Δp and \
             perplexity are defined as in llama.cpp's --kl-divergence, in nats (" (NAT) "), and summed in f64; "
            "docs/compare.md has every definition."
        }
        p { "Made by gemma-mlp " (comparison.version) ". This page loads nothing from the network." }
    };
    Header { title: format!("Compare: {headline}"), top, footer }
}

fn key_figures(comparison: &Comparison) -> Vec<[String; 3]> {
    let mut all = vec![];
    if let Some(first) = &comparison.first {
        all.push([
            "First difference, times the floor".into(),
            if first.ratio.is_nan() { "not finite".into() } else { pretty(first.ratio) },
            full_name(first.layer, &first.point),
        ]);
    }
    if let Some(cause) = comparison.causes.first() {
        let next = cause.runner_up_name.as_ref().zip(cause.runner_up);
        all.push([
            "Cosine of the best mistake".into(),
            format!("{:.3}", cause.cosine),
            match next {
                Some((name, cosine)) => format!("{}; next {name}, {cosine:.3}", cause.name),
                None => cause.name.clone(),
            },
        ]);
    }
    if let Some(logits) = &comparison.logits {
        let floor = logits.floor.as_ref();
        all.push([
            "Mean KL divergence, nats".into(),
            measured(logits.metrics.kl_mean_nats, pretty),
            match floor {
                Some(floor) => format!(
                    "noise floor {}, ratio {}",
                    measured(floor.kl_mean_nats, pretty),
                    measured(logits.ratio, pretty)
                ),
                None => "no noise floor".into(),
            },
        ]);
        all.push([
            "Same likeliest token".into(),
            percent(logits.metrics.top1_agreement),
            format!(
                "{} of {} are others",
                grouped(logits.flip_count as u64),
                grouped(logits.positions as u64)
            ),
        ]);
    }
    all
}
