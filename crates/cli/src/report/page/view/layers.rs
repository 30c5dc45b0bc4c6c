//! Every block on one input.

use super::{Content, Section, by_layer};
use crate::report::run::Run;
use gemma_mlp_drift::drift::{Drift, LayerDrift};
use gemma_mlp_drift::input::InputKind;

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let figure = |l: &LayerDrift| (l.index, l.drift.output.rel_l2, l.floor.output.rel_l2);
    let of = |drift: &Drift| drift.layers.iter().map(figure).collect();
    let title = "Each block on one input";
    let plot = by_layer::plot(runs, of, "layers", title, "relative L2 of the block's output")?;
    let (heading, how_to_read) = match runs {
        [run] => ("Layer by layer, each block on one input", how_to_read(run.drift)),
        _ => (title, by_layer::LINES.into()),
    };
    Some(Section {
        id: "layers",
        name: "Layers",
        heading: heading.into(),
        how_to_read,
        content: Content::Plot(plot.into()),
    })
}

fn how_to_read(drift: &Drift) -> String {
    let on = match drift.layers.first().map(|layer| layer.input) {
        Some(InputKind::Gaussian) => {
            "Each block on Gaussian noise through its own norm, because the model around it does not run here."
        }
        _ => "How far a block's output moves if both sides get the same input.",
    };
    format!("{on} Layers whose dot is above the dashed line change more than rounding does.")
}
