//! Where the likeliest token changes.

use super::{Content, Section, single};
use crate::report::chart::{Axis, Chart, Colour, Mark, Series};
use crate::report::number::{grouped, precise};
use crate::report::page::plot::{Plot, shown, strings};
use crate::report::run::Run;
use gemma_mlp_drift::drift::{Drift, Token, TokenDrift};
use maud::html;

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let drift = single(runs)?;
    drift.logits.as_ref()?;
    let (heading, how_to_read) = match drift.flip_count {
        0 => (
            "No likeliest token changes".to_string(),
            "Both sides have the same likeliest token at every position.",
        ),
        n => (
            if n == 1 {
                "One likeliest token changes".into()
            } else {
                format!("{} likeliest tokens change", grouped(n as u64))
            },
            "Where the margin is small, the two tokens were about equally likely; where it is large, the model's choice has changed. The largest margins of side a come first.",
        ),
    };
    Some(Section {
        id: "flips",
        name: "Flips",
        heading,
        how_to_read: how_to_read.into(),
        content: plot(drift).map_or(Content::Html(html! {}), |plot| Content::Plot(plot.into())),
    })
}

fn plot(drift: &Drift) -> Option<Plot> {
    /// As many as a picture has room for.
    const MOST: usize = 16;
    let flips = &drift.flips[..drift.flips.len().min(MOST)];
    let name = |flip: &TokenDrift| {
        let [a, b] = &flip.likeliest;
        let short = |token: &Token| shown(token).chars().take(14).collect::<String>();
        format!("{} → {}", short(a), short(b))
    };
    let points = |side: usize| -> Vec<(f64, f64)> {
        flips.iter().enumerate().map(|(i, flip)| (flip.margins[side], i as f64)).collect()
    };
    let series = [("under a", Colour::Blue), ("under b", Colour::Orange)];
    let series = series.iter().enumerate().map(|(side, (name, colour))| Series {
        name: format!("margin {name}"),
        mark: if side == 0 { Mark::Lollipop } else { Mark::Dots },
        colour: *colour,
        on_right: false,
        points: points(side),
    });
    let row = |flip: &TokenDrift| {
        let [a, b] = [0, 1].map(|side| precise(flip.margins[side]));
        vec![name(flip), flip.position.to_string(), a, b, precise(flip.kl_nats)]
    };
    let margins = flips.iter().flat_map(|flip| flip.margins);
    (!flips.is_empty()).then(|| Plot {
        chart: Chart {
            id: "flips".into(),
            title: "Where the likeliest token changes".into(),
            description: format!("{} positions.", drift.flip_count),
            x: Axis::linear_around(
                "how far the likeliest logit is above the next one",
                margins,
                true,
            ),
            y: Axis::categories(flips.iter().map(name).collect()),
            right: None,
            series: series.collect(),
        },
        columns: strings(["a → b", "position", "margin under a", "margin under b", "KL, nats"]),
        rows: flips.iter().map(row).collect(),
    })
}
