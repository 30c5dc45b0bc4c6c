//! Layers along the text, as a map of ratios to the floor.

use super::{Content, Section};
use crate::report::chart::{Axis, Chart, Colour, Mark, Series};
use crate::report::compared::full_name;
use crate::report::number::{precise, short};
use crate::report::page::html::{plot, scrolled, table};
use crate::report::page::plot::{Plot, strings};
use gemma_mlp_drift::compare::{Comparison, MapRow, PositionMap};
use maud::html;

pub(super) fn section(comparison: &Comparison) -> Option<Section> {
    let map = comparison.map.as_ref()?;
    let drawn = map_plot(comparison, map)?;
    let caption = "Ratio to the floor, position by layer";
    let mut columns = vec![drawn.columns[0].clone()];
    columns.extend(map.rows.iter().map(|row| full_name(Some(row.layer), &row.point)));
    let every = |i: usize| {
        let ratios = map.rows.iter().map(|row| cell(row, i));
        std::iter::once(drawn.rows[i][0].clone()).chain(ratios).collect::<Vec<_>>()
    };
    let rows: Vec<_> = (0..drawn.rows.len()).map(every).collect();
    Some(Section {
        id: "map",
        name: "Map",
        heading: "Where in the text, and in which layer".into(),
        how_to_read: "Each cell is the distance behind a layer at some positions, accumulated up to there, in times its noise \
            floor. From the layer of a mistake on, rows are red; where one depends on the position, as of RoPE or a \
            window, they are red from some position on."
            .into(),
        content: Content::Html(html! {
            (plot(&drawn))
            details {
                summary { "Every cell in numbers" }
                (scrolled(caption, &table("table-map-cells", caption, &columns, &rows)))
            }
        }),
    })
}

/// The classes of colour: from which ratio on, their colour and strength. The first two count as rounding.
fn classes(threshold: f64) -> [(f64, Colour, f64); 6] {
    [
        (f64::NEG_INFINITY, Colour::Grey, 0.15),
        (1.0, Colour::Grey, 0.4),
        (threshold, Colour::Red, 0.3),
        (10.0 * threshold, Colour::Red, 0.5),
        (100.0 * threshold, Colour::Red, 0.75),
        (1000.0 * threshold, Colour::Red, 1.0),
    ]
}

fn map_plot(comparison: &Comparison, map: &PositionMap) -> Option<Plot> {
    let groups = map.rows.iter().map(|row| row.ratios.len()).max().filter(|&n| n > 0)?;
    let (first, last) = (map.rows.first()?.layer as f64, map.rows.last()?.layer as f64);
    let group = map.group.max(1);
    let width = group as f64;
    let x = |i: usize| i as f64 * width + 0.5 * (width - 1.0);
    let classes = classes(comparison.threshold.max(1.0));
    let class_of = |ratio: f64| classes.iter().rposition(|(from, ..)| ratio > *from);
    let mut cells: Vec<Vec<(f64, f64)>> = vec![vec![]; classes.len() + 1];
    for row in &map.rows {
        for (i, &ratio) in row.ratios.iter().enumerate() {
            let class = if ratio.is_finite() { class_of(ratio) } else { None };
            cells[class.unwrap_or(classes.len())].push((x(i), row.layer as f64));
        }
    }
    let name = |class: usize| match (classes.get(class), classes.get(class + 1)) {
        (None, _) => "not finite".to_string(),
        (Some(_), Some((to, ..))) if class == 0 => format!("up to {}", short_number(*to)),
        (Some((from, ..)), Some((to, ..))) => {
            format!("{} to {}", short_number(*from), short_number(*to))
        }
        (Some((from, ..)), None) => format!("above {}", short_number(*from)),
    };
    let style = |class: usize| match classes.get(class) {
        Some((_, colour, strength)) => (*colour, *strength),
        None => (Colour::Purple, 1.0),
    };
    let finite_classes = classes.len();
    let series = cells.into_iter().enumerate().filter_map(|(class, points)| {
        let (colour, strength) = style(class);
        // The whole scale is in the legend, whether or not it is needed, but for what should not be.
        (class < finite_classes || !points.is_empty()).then(|| Series {
            name: name(class),
            mark: Mark::Cells(width, strength),
            colour,
            on_right: false,
            points,
        })
    });
    let all = || map.rows.iter().flat_map(|row| &row.ratios);
    let beyond = |ratio: &&f64| ratio.is_nan() || **ratio > comparison.threshold;
    let (red, all) = (all().filter(beyond).count(), all().count());
    let unit = if group == 1 { "position" } else { "positions" };
    Some(Plot {
        chart: Chart {
            id: "map".into(),
            title: "Ratio to the floor, layer by layer along the text".into(),
            description: format!("{red} of {all} cells are beyond rounding."),
            x: Axis::whole("position in the text", (-0.5, groups as f64 * width - 0.5)),
            y: Axis::whole("layer", (first - 0.5, last + 0.5)),
            right: None,
            series: series.collect(),
        },
        columns: strings([
            unit,
            "first layer beyond rounding",
            "its ratio",
            "farthest layer",
            "its ratio",
        ]),
        rows: (0..groups).map(|i| summary(comparison, map, i)).collect(),
    })
}

/// What there is at a group of positions, in a few words.
fn summary(comparison: &Comparison, map: &PositionMap, i: usize) -> Vec<String> {
    let start = i.saturating_mul(map.group.max(1));
    let end =
        start.saturating_add(map.group.max(1)).min(comparison.theirs.tokens.max(start + 1)) - 1;
    let positions = if start == end { start.to_string() } else { format!("{start} to {end}") };
    let ratio = |row: &&MapRow| row.ratios.get(i).copied().unwrap_or(0.0);
    // What is NaN is beyond rounding, and farther than anything.
    let weight = |row: &&MapRow| if ratio(row).is_nan() { f64::INFINITY } else { ratio(row) };
    let first = map.rows.iter().find(|row| weight(row) > comparison.threshold);
    let farthest = map.rows.iter().max_by(|a, b| weight(a).total_cmp(&weight(b)));
    let named = |row: Option<&MapRow>| match row {
        Some(row) => [full_name(Some(row.layer), &row.point), cell(row, i)],
        None => ["none".into(), String::new()],
    };
    let [first, farthest] = [named(first), named(farthest)];
    std::iter::once(positions).chain(first).chain(farthest).collect()
}

fn cell(row: &MapRow, i: usize) -> String {
    row.ratios.get(i).map_or(String::new(), |&x| if x.is_nan() { "nan".into() } else { precise(x) })
}

/// A threshold as people write it: `2`, `20`, `2000`.
fn short_number(x: f64) -> String {
    if x.fract() == 0.0 && x < 1e6 { format!("{x}") } else { short(x) }
}
