//! How KL divergence is distributed over positions, of the drift and of the floor.

use super::{Content, Section};
use crate::report::chart::{Axis, Chart, Colour, Mark, Series};
use crate::report::number::{precise, short};
use crate::report::page::plot::{Plot, named, strings};
use crate::report::run::Run;
use gemma_mlp_drift::drift::LogitMetrics;

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let plot = plot(runs)?;
    let how_to_read = match runs {
        [_] => {
            "KL divergence of b's distribution of the next token from a's, over all positions. Where the drift's dots lie left of the noise floor's, rounding hides it."
        }
        _ => "Each run's drift above its noise floor.",
    };
    Some(Section {
        id: "distribution",
        name: "Distribution",
        heading: plot.chart.title.clone(),
        how_to_read: how_to_read.into(),
        content: Content::Plot(plot.into()),
    })
}

/// A figure of KL divergence: its name, and how it is taken.
type Figure = (&'static str, fn(&LogitMetrics) -> f64);

fn plot(runs: &[Run]) -> Option<Plot> {
    const FIGURES: [Figure; 4] = [
        ("median", |m| m.kl_median_nats),
        ("mean", |m| m.kl_mean_nats),
        ("99 %", |m| m.kl_p99_nats),
        ("largest", |m| m.kl_max_nats),
    ];
    let mut rows = vec![];
    for run in runs {
        let logits = (run.drift.logits, run.drift.floor.logits);
        if let (Some(drift), Some(floor)) = logits {
            rows.push((named(runs, run, "drift"), drift));
            rows.push((named(runs, run, "noise floor"), floor));
        }
    }
    let names: Vec<_> = rows.iter().map(|(name, _)| name.clone()).collect();
    let of = |figure: &Figure| -> Vec<(f64, f64)> {
        rows.iter().enumerate().map(|(i, (_, m))| (figure.1(m), i as f64)).collect()
    };
    let colours = [Colour::Cyan, Colour::Blue, Colour::Purple, Colour::Orange];
    let series = FIGURES.iter().zip(colours).map(|(figure, colour)| Series {
        name: figure.0.into(),
        mark: Mark::Dots,
        colour,
        on_right: false,
        points: of(figure),
    });
    let mut series: Vec<_> = series.collect();
    let all: Vec<f64> = series.iter().flat_map(|s| s.points.iter().map(|p| p.0)).collect();
    let ends = rows
        .iter()
        .enumerate()
        .flat_map(|(i, (_, m))| [m.kl_median_nats, m.kl_max_nats].map(|kl| (kl, i as f64)));
    let span = Series::line("", Colour::Grey, ends.collect()).drawn(Mark::Span);
    series.push(span);
    let largest =
        rows.iter().map(|(name, m)| format!("{name} {} on average", short(m.kl_mean_nats)));
    (!names.is_empty()).then(|| Plot {
        chart: Chart {
            id: "divergence".into(),
            title: "How far the next-token distributions move".into(),
            description: format!(
                "KL divergence in nats: {}.",
                largest.collect::<Vec<_>>().join(", ")
            ),
            x: Axis::log_around("KL divergence of a position, nats", all.into_iter()),
            y: Axis::categories(names),
            right: None,
            series,
        },
        columns: strings(["", "median", "mean", "99 %", "largest"]),
        rows: rows
            .iter()
            .map(|(name, m)| {
                [name.clone()].into_iter().chain(FIGURES.map(|(_, f)| precise(f(m)))).collect()
            })
            .collect(),
    })
}
