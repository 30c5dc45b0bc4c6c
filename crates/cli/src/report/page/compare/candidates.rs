//! The mistakes that were tried.

use super::{Content, Section};
use crate::report::chart::{Axis, Chart, Colour, Mark, Series};
use crate::report::number::{percent, precise};
use crate::report::page::plot::{Plot, strings};
use gemma_mlp_drift::compare::{Candidate, Comparison};

pub(super) fn section(comparison: &Comparison) -> Option<Section> {
    let plot = plot(comparison)?;
    let heading = match &comparison.causes[..] {
        [] => "No known mistake explains it".to_string(),
        [cause] => format!("The mistake: {}", cause.name),
        causes => {
            let names: Vec<_> = causes.iter().map(|cause| cause.name.as_str()).collect();
            format!("The mistakes: {}", names.join("; "))
        }
    };
    Some(Section {
        id: "candidates",
        name: "Mistakes",
        heading,
        how_to_read: "Each known mistake was put into our own model. A cosine near 1 says that what it changes points where \
            the difference points, and a size near 1 that it is as large. What is left is the part of the difference that \
            the mistake does not explain."
            .into(),
        content: Content::Plot(plot.into()),
    })
}

fn plot(comparison: &Comparison) -> Option<Plot> {
    /// As many as a picture has room for.
    const MOST: usize = 20;
    let candidates = &comparison.candidates[..comparison.candidates.len().min(MOST)];
    let points = |named: bool| {
        let of = |(i, c): (usize, &Candidate)| {
            (comparison.causes.iter().any(|cause| cause.name == c.name) == named)
                .then_some((c.cosine, i as f64))
        };
        candidates.iter().enumerate().filter_map(of).collect::<Vec<_>>()
    };
    let series = [("named", Colour::Red, points(true)), ("not named", Colour::Grey, points(false))];
    let series = series.into_iter().filter(|(.., points)| !points.is_empty());
    let row = |c: &Candidate| {
        vec![c.name.clone(), precise(c.cosine), precise(c.size), percent(c.left), precise(c.ratio)]
    };
    let lowest = candidates.iter().map(|c| c.cosine).filter(|c| c.is_finite()).fold(0.0, f64::min);
    let low = if lowest < 0.0 { lowest - 0.05 } else { 0.0 };
    (!candidates.is_empty()).then(|| Plot {
        chart: Chart {
            id: "candidates".into(),
            title: "Cosine of each mistake with what differs".into(),
            description: format!("{} mistakes were tried.", comparison.candidates.len()),
            x: Axis::linear("cosine with what differs", (low, 1.05)),
            y: Axis::categories(candidates.iter().map(|c| c.name.clone()).collect()),
            right: None,
            series: series
                .map(|(name, colour, points)| Series {
                    name: name.into(),
                    mark: Mark::Lollipop,
                    colour,
                    on_right: false,
                    points,
                })
                .collect(),
        },
        columns: strings(["mistake", "cosine", "size", "left", "over the floor"]),
        rows: candidates.iter().map(row).collect(),
    })
}
