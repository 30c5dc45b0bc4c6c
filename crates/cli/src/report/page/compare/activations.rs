//! Which activation the numbers are of.

use super::{Content, Section};
use crate::report::number::{percent, precise};
use crate::report::page::html::{scrolled, table};
use crate::report::page::plot::strings;
use gemma_mlp_drift::compare::{ActivationReading, Comparison};
use maud::html;

pub(super) fn section(comparison: &Comparison) -> Option<Section> {
    let readings = &comparison.activations;
    let caption = "Activation by layer";
    let columns = strings([
        "layer",
        "fits best",
        "same bits",
        "rel L2",
        "next best",
        "same bits",
        "rel L2",
        "",
    ]);
    let rows: Vec<_> = readings.iter().map(row).collect();
    let differ = readings.iter().filter(|reading| reading.differs).count();
    (!readings.is_empty()).then(|| Section {
        id: "activations",
        name: "Activation",
        heading: match differ {
            0 => "The activation is the one that the config means".into(),
            1 => "In one layer the activation is another than the config means".into(),
            n => format!("In {n} layers the activation is another than the config means"),
        },
        how_to_read: "The dump has what goes into the activation and what comes out, so the function is read off, number by \
            number. Same bits is the fraction of numbers that are equal to the last bit."
            .into(),
        content: Content::Html(html! {
            figure { (scrolled(caption, &table("table-activations", caption, &columns, &rows))) }
        }),
    })
}

fn row(reading: &ActivationReading) -> Vec<String> {
    let mut cells = vec![reading.layer.to_string()];
    for i in 0..2 {
        match reading.tried.get(i) {
            Some(fit) => {
                cells.extend([fit.side.clone(), percent(fit.same_bits), precise(fit.rel_l2)])
            }
            None => cells.extend(strings([""; 3])),
        }
    }
    if reading.activation.is_none() {
        cells[1] = format!("none ({})", reading.best);
    }
    cells.push(if reading.differs { "differs" } else { "" }.into());
    cells
}
