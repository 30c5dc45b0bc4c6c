//! The gradients of the loss.

use super::{Content, Section, single};
use crate::report::chart::{Axis, Chart, Colour, Mark, Series};
use crate::report::number::precise;
use crate::report::page::plot::Plot;
use crate::report::run::Run;
use crate::report::verdict::NOISE_FLOOR;
use gemma_mlp_drift::drift::{BlockGradients, Drift};

pub(super) fn section(runs: &[Run]) -> Option<Section> {
    let plot = plot(single(runs)?)?;
    Some(Section {
        id: "gradients",
        name: "Gradients",
        heading: "What a training step would see".into(),
        how_to_read: format!(
            "Relative L2 of the mean loss's gradient for each matrix; dashed is {NOISE_FLOOR} to it."
        ),
        content: Content::Plot(plot.into()),
    })
}

/// The matrices', the block's three first.
const COLOURS: [Colour; 7] = [
    Colour::Blue,
    Colour::Green,
    Colour::Purple,
    Colour::Orange,
    Colour::Brown,
    Colour::Red,
    Colour::Cyan,
];

fn plot(drift: &Drift) -> Option<Plot> {
    let layers = &drift.gradients.as_ref()?.gradients;
    let names: Vec<_> = layers.first()?.drift.matrices().map(|(name, _)| name).collect();
    let pick = |gradients: &BlockGradients, name: &str| {
        gradients.matrices().find(|(own, _)| *own == name).map_or(f64::NAN, |(_, m)| m.rel_l2)
    };
    let (mut series, mut columns) = (vec![], vec!["layer".to_string()]);
    let mut rows: Vec<Vec<String>> = layers.iter().map(|l| vec![l.index.to_string()]).collect();
    for (name, colour) in names.iter().zip(COLOURS) {
        for (mark, what) in [(Mark::Dotted, ""), (Mark::Dashed, ", floor")] {
            let floor = mark == Mark::Dashed;
            let points: Vec<(f64, f64)> = layers
                .iter()
                .map(|l| (l.index as f64, pick(if floor { &l.floor } else { &l.drift }, name)))
                .collect();
            rows.iter_mut().zip(&points).for_each(|(row, point)| row.push(precise(point.1)));
            columns.push(format!("{name}{what}"));
            let name = format!("{name}{what}");
            series.push(Series { name, mark, colour, on_right: false, points });
        }
    }
    let values: Vec<f64> = series.iter().flat_map(|s| s.points.iter().map(|p| p.1)).collect();
    let last = layers.last()?.index as f64;
    Some(Plot {
        chart: Chart {
            id: "gradients".into(),
            title: "The loss's gradients for each matrix".into(),
            description: format!(
                "{} layers, {} matrices each, with their floor.",
                layers.len(),
                names.len()
            ),
            x: Axis::whole("layer", (-0.02 * last - 0.3, 1.02 * last + 0.3)),
            y: Axis::log_around("relative L2 of the gradient", values.into_iter()),
            right: None,
            series,
        },
        columns,
        rows,
    })
}
