//! Where the likeliest token is another.

use super::{Content, Section};
use crate::report::chart::{Axis, Chart, Colour, Mark, Series};
use crate::report::number::{grouped, precise};
use crate::report::page::plot::{Plot, shown, strings};
use gemma_mlp_drift::compare::{ComparedLogits, Comparison, Flip};
use gemma_mlp_drift::drift::Token;
use maud::html;

pub(super) fn section(comparison: &Comparison) -> Option<Section> {
    let logits = comparison.logits.as_ref()?;
    let (heading, how_to_read) = match logits.flip_count {
        0 => (
            "No likeliest token is another".to_string(),
            "Both have the same likeliest token at every position.",
        ),
        n => (
            if n == 1 {
                "One likeliest token is another".into()
            } else {
                format!("{} likeliest tokens are others", grouped(n as u64))
            },
            "The gap between the two likeliest tokens, in units of the last place of the logits. Where it is within what \
             rounding moves logits by, the flip is a tie and means nothing.",
        ),
    };
    Some(Section {
        id: "flips",
        name: "Flips",
        heading,
        how_to_read: how_to_read.into(),
        content: plot(logits).map_or(Content::Html(html! {}), |plot| Content::Plot(plot.into())),
    })
}

fn plot(logits: &ComparedLogits) -> Option<Plot> {
    /// As many as a picture has room for.
    const MOST: usize = 16;
    let flips = &logits.flips[..logits.flips.len().min(MOST)];
    let name = |flip: &Flip| {
        let [ours, theirs] = &flip.token.likeliest;
        let short = |token: &Token| shown(token).chars().take(14).collect::<String>();
        format!("{} → {}", short(ours), short(theirs))
    };
    let points = |side: usize| -> Vec<(f64, f64)> {
        flips.iter().enumerate().map(|(i, flip)| (flip.margin_ulps[side], i as f64)).collect()
    };
    let series = [("ours", Colour::Blue, Mark::Lollipop), ("theirs", Colour::Orange, Mark::Dots)];
    let series = series.iter().enumerate().map(|(side, (name, colour, mark))| Series {
        name: format!("gap, {name}"),
        mark: *mark,
        colour: *colour,
        on_right: false,
        points: points(side),
    });
    let row = |flip: &Flip| {
        let [ours, theirs] = flip.margin_ulps.map(precise);
        let tie = if flip.tie { "tie" } else { "" };
        let position = flip.token.position.to_string();
        vec![name(flip), position, ours, theirs, precise(flip.token.kl_nats), tie.into()]
    };
    let gaps = flips.iter().flat_map(|flip| flip.margin_ulps);
    (!flips.is_empty()).then(|| Plot {
        chart: Chart {
            id: "flips".into(),
            title: "Where the likeliest token is another".into(),
            description: format!("{} positions.", logits.flip_count),
            x: Axis::linear_around(
                "gap of the two likeliest, in units of the last place",
                gaps,
                true,
            ),
            y: Axis::categories(flips.iter().map(name).collect()),
            right: None,
            series: series.collect(),
        },
        columns: strings([
            "ours → theirs",
            "position",
            "gap, ours",
            "gap, theirs",
            "KL, nats",
            "tie",
        ]),
        rows: flips.iter().map(row).collect(),
    })
}
