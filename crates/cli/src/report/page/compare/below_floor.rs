//! The mistakes whose effect is below the noise floor.

use super::{Content, Section};
use crate::report::chart::{Axis, Chart, Colour, Mark, Series};
use crate::report::compared::sight;
use crate::report::number::precise;
use crate::report::page::plot::{Plot, strings};
use gemma_mlp_drift::compare::{BelowFloor, Comparison, Sight};

pub(super) fn section(comparison: &Comparison) -> Option<Section> {
    let plot = plot(&comparison.below_floor)?;
    let suspected = comparison.below_floor.iter().filter(|b| b.sight == Sight::Suspected);
    let suspected: Vec<_> = suspected.map(|below| below.name.as_str()).collect();
    let heading = match suspected.is_empty() {
        true => "No mistake shows below the floor".to_string(),
        false => format!("As if it were there: {}", suspected.join("; ")),
    };
    Some(Section {
        id: "below_floor",
        name: "Below the floor",
        heading,
        how_to_read: "Each of these mistakes changes less than rounding does. What differs is projected on what the mistake \
            changes: 1 on average if it is there, 0 if it is not."
            .into(),
        content: Content::Plot(plot.into()),
    })
}

/// Those of which something can be told; the table has all.
fn plot(all: &[BelowFloor]) -> Option<Plot> {
    /// As many as a picture has room for.
    const MOST: usize = 20;
    let told = all.iter().filter(|below| below.sight != Sight::TooSmallToTell);
    let told: Vec<_> = told.take(MOST).collect();
    let points = |of: Sight| {
        let point = |(i, b): (usize, &&BelowFloor)| (b.sight == of).then_some((b.size, i as f64));
        told.iter().enumerate().filter_map(point).collect::<Vec<_>>()
    };
    let series = [(Sight::Suspected, Colour::Red), (Sight::Excluded, Colour::Grey)];
    let series = series.map(|(of, colour)| (sight(of), colour, points(of)));
    let series = series.into_iter().filter(|(.., points)| !points.is_empty());
    let row = |b: &BelowFloor| {
        let tokens = b.tokens.map_or(String::new(), |tokens| tokens.to_string());
        let [ratio, size, error] = [b.ratio, b.size, b.error].map(precise);
        vec![b.name.clone(), ratio, size, error, sight(b.sight).into(), tokens]
    };
    let sizes = told.iter().map(|below| below.size).filter(|size| size.is_finite());
    let (low, high) = sizes.fold((0.0, 1.0), |(a, b), size| (f64::min(a, size), f64::max(b, size)));
    (!told.is_empty()).then(|| Plot {
        chart: Chart {
            id: "below_floor".into(),
            title: "How much of each mistake's effect is in theirs".into(),
            description: format!("{} mistakes change less than rounding does.", all.len()),
            x: Axis::linear("size, over that of the effect", (low - 0.05, high + 0.05)),
            y: Axis::categories(told.iter().map(|below| below.name.clone()).collect()),
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
        columns: strings([
            "mistake",
            "effect over the floor",
            "size",
            "error",
            "says",
            "tokens to tell",
        ]),
        rows: all.iter().map(row).collect(),
    })
}
