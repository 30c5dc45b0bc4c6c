//! Distance and floor by layer, of a part of each.

use super::{Content, Section};
use crate::report::chart::{Axis, Chart, Colour, Mark, Series};
use crate::report::compared::{Part, Row, ratio};
use crate::report::number::precise;
use crate::report::page::plot::Plot;
use gemma_mlp_drift::compare::{ComparedPoint, Comparison, Distance};

pub(super) fn section(comparison: &Comparison, part: Part) -> Option<Section> {
    let plot = plot(comparison, part)?;
    let [id, name, heading] = match part {
        Part::Attention => ["attention", "Attention", "Attention, layer by layer"],
        Part::Mlp => ["mlp", "MLP", "The MLP, layer by layer"],
        Part::Residual => ["residual", "Residual", "The residual stream, layer by layer"],
    };
    Some(Section {
        id,
        name,
        heading: heading.into(),
        how_to_read: "On the same input: ours was computed from their own numbers, so that nothing before it counts. \
            Accumulated: each model by itself, from the tokens on. Of each layer the point is shown that differs first, or else \
            the one farthest above its floor (dashed)."
            .into(),
        content: Content::Plot(plot.into()),
    })
}

/// What is drawn, as data: name, colour, how, and how it is read.
type Lines =
    (&'static str, Colour, Mark, fn(&ComparedPoint) -> Option<Distance>, fn(Distance) -> f64);

const LINES: [Lines; 4] = [
    ("on the same input", Colour::Blue, Mark::Dotted, |p| p.same_input, |d| d.rel_l2),
    ("its floor", Colour::Blue, Mark::Dashed, |p| p.same_input, |d| d.floor),
    ("accumulated", Colour::Orange, Mark::Dotted, |p| p.accumulated, |d| d.rel_l2),
    ("its floor", Colour::Orange, Mark::Dashed, |p| p.accumulated, |d| d.floor),
];

fn plot(comparison: &Comparison, part: Part) -> Option<Plot> {
    let rows = part.rows(comparison);
    let (first, last) = (rows.first()?.layer as f64, rows.last()?.layer as f64);
    let mut series: Vec<Series> = vec![];
    for (name, colour, mark, of, figure) in LINES {
        let at = |row: &Row| (row.layer as f64, of(row.point).map_or(f64::NAN, figure));
        let points: Vec<_> = rows.iter().map(at).collect();
        if points.iter().any(|point| !point.1.is_nan())
            || mark == Mark::Dotted && rows.iter().any(|row| of(row.point).is_some())
        {
            series.push(Series { name: name.into(), mark, colour, on_right: false, points });
        }
    }
    let values: Vec<f64> = series.iter().flat_map(|s| s.points.iter().map(|p| p.1)).collect();
    let width = last - first;
    let differ = rows.iter().filter(|row| row.point.differs).count();
    let columns = [
        "layer",
        "point",
        "rel L2",
        "floor",
        "ratio",
        "cosine",
        "norm ratio",
        "accumulated",
        "its floor",
        "its ratio",
        "",
    ];
    Some(Plot {
        chart: Chart {
            id: part.id().into(),
            title: format!("Distance of the {} and its floor", part.name()),
            description: format!("{differ} of {} layers differ by more than rounding.", rows.len()),
            x: Axis::whole("layer", (first - 0.02 * width - 0.3, last + 0.02 * width + 0.3)),
            y: Axis::log_around("relative L2", values.into_iter()),
            right: None,
            series,
        },
        columns: columns.map(String::from).to_vec(),
        rows: rows.iter().map(cells).collect(),
    })
}

fn cells(row: &Row) -> Vec<String> {
    let figure =
        |d: Option<Distance>, of: fn(Distance) -> f64| d.map_or(String::new(), |d| precise(of(d)));
    let times = |d: Option<Distance>| d.map_or(String::new(), |d| ratio(&d, precise));
    let (own, all) = (row.point.same_input, row.point.accumulated);
    vec![
        row.layer.to_string(),
        row.point.point.clone(),
        figure(own, |d| d.rel_l2),
        figure(own, |d| d.floor),
        times(own),
        figure(own, |d| d.cosine),
        figure(own, |d| d.norm_ratio),
        figure(all, |d| d.rel_l2),
        figure(all, |d| d.floor),
        times(all),
        if row.point.differs { "differs" } else { "" }.into(),
    ]
}
