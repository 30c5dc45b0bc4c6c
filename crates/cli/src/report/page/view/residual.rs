//! What accumulates in the residual stream.

use super::{Content, Section, by_layer};
use crate::report::run::Run;
use gemma_mlp_drift::drift::{Drift, ResidualDrift};

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let figure = |r: &ResidualDrift| (r.index, r.rel_l2, r.floor_rel_l2);
    let of = |drift: &Drift| drift.residual.iter().map(figure).collect();
    let title = "Accumulated in the residual stream";
    let unit = "relative L2 of the stream after the layer";
    let plot = by_layer::plot(runs, of, "residual", title, unit)?;
    let (heading, how_to_read) = match runs {
        [_] => (
            "What accumulates in the residual stream",
            "Each side runs on its own stream: what earlier layers changed goes on and adds up, or is averaged out.",
        ),
        _ => (title, by_layer::LINES),
    };
    Some(Section {
        id: "residual",
        name: "Residual stream",
        heading: heading.into(),
        how_to_read: how_to_read.into(),
        content: Content::Plot(plot.into()),
    })
}
