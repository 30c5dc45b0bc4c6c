//! Every point, as a table.

use super::{Content, Section};
use crate::report::compared::{full_name, ratio};
use crate::report::number::precise;
use crate::report::page::html::{scrolled, table};
use crate::report::page::plot::strings;
use gemma_mlp_drift::compare::{ComparedPoint, Comparison};
use maud::html;

pub(super) fn section(comparison: &Comparison) -> Option<Section> {
    let of_layers = comparison
        .layers
        .iter()
        .flat_map(|layer| layer.points.iter().map(|point| (Some(layer.index), point)));
    let of_ends = comparison.ends.iter().map(|point| (None, point));
    let rows: Vec<_> = of_layers.chain(of_ends).map(|(layer, point)| row(layer, point)).collect();
    let columns = strings([
        "point",
        "",
        "rel L2",
        "cosine",
        "norm ratio",
        "floor",
        "ratio",
        "accumulated",
        "cosine",
        "norm ratio",
        "floor",
        "ratio",
        "a few numbers",
        "computed from their",
    ]);
    let caption = "Every point that was compared";
    (!rows.is_empty()).then(|| Section {
        id: "points",
        name: "Points",
        heading: "Point by point".into(),
        how_to_read: "First on the same input, then accumulated. Of some programs' dumps only a few printed numbers are \
            known: the largest difference of one is over the root mean square of ours."
            .into(),
        content: Content::Html(html! {
            figure {
                details {
                    summary { (rows.len()) " points" }
                    (scrolled(caption, &table("table-points", caption, &columns, &rows)))
                }
            }
        }),
    })
}

fn row(layer: Option<usize>, point: &ComparedPoint) -> Vec<String> {
    let mark = match point {
        point if point.differs => "differs".to_string(),
        ComparedPoint { allowed: Some(rule), .. } => format!("allowed by {rule}"),
        _ => String::new(),
    };
    let mut cells = vec![full_name(layer, &point.point), mark];
    for distance in [point.same_input, point.accumulated] {
        match distance {
            Some(d) => cells.extend([
                precise(d.rel_l2),
                precise(d.cosine),
                precise(d.norm_ratio),
                precise(d.floor),
                ratio(&d, precise),
            ]),
            None => cells.extend(strings([""; 5])),
        }
    }
    cells.push(point.glimpse.map_or(String::new(), precise));
    cells.push(point.from.join(", "));
    cells
}
