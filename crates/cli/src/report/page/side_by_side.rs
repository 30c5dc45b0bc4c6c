//! Several runs side by side.

use super::html::{Section, badge, document, plot, table};
use crate::report::charts::{Run, drift_plots};
use crate::report::escape::escape;
use crate::report::number::pretty;
use crate::report::side_by_side::rows;
use crate::report::verdict::{NAT, NOISE_FLOOR, Words};
use std::fmt::Write;

pub(super) fn page(runs: &[Run]) -> String {
    let names: Vec<_> = runs.iter().map(|run| run.name).collect();
    let header = format!(
        "<p class=\"kicker\">gemma-mlp report</p>\n<h1>{} runs side by side</h1>\n",
        runs.len()
    );
    document(
        &format!("Drift: {}", names.join(" and ")),
        &header,
        &sections(runs),
        "<p>This page asks for nothing from elsewhere.</p>\n",
    )
}

fn sections(runs: &[Run]) -> Vec<Section> {
    let mut sections = vec![
        Section {
            id: "verdicts",
            name: "Verdicts",
            heading: "What follows from each".into(),
            how_to_read: format!("Every run beside its own noise floor, {NOISE_FLOOR}; {NAT}."),
            content: verdicts(runs),
        },
        Section {
            id: "figures",
            name: "Figures",
            heading: "Figure by figure".into(),
            how_to_read: "What differs in the first rows is what the runs differ in.".into(),
            content: figures(runs),
        },
    ];
    let lines = "Solid is the drift, dashed of the same colour its noise floor.";
    for drawn in drift_plots(runs) {
        let (id, name, how_to_read) = match drawn.chart.id.as_str() {
            "divergence" => {
                ("distribution", "Distribution", "Each run's drift above its noise floor.")
            }
            "layers" => ("layers", "Layers", lines),
            "residual" => ("residual", "Residual stream", lines),
            _ => continue,
        };
        sections.push(Section {
            id,
            name,
            heading: drawn.chart.title.clone(),
            how_to_read: how_to_read.into(),
            content: plot(&drawn),
        });
    }
    sections
}

fn verdicts(runs: &[Run]) -> String {
    let mut html = "<dl class=\"facts\">\n".to_string();
    for run in runs {
        let _ = writeln!(
            html,
            "<dt>{}</dt><dd>{}<br>{}</dd>",
            escape(run.name),
            badge(run.drift.verdict.size),
            escape(&Words::new(run.drift, pretty).text())
        );
    }
    html + "</dl>\n"
}

fn figures(runs: &[Run]) -> String {
    let columns: Vec<_> =
        std::iter::once(String::new()).chain(runs.iter().map(|run| run.name.to_string())).collect();
    let table = table("table-figures", "All figures", &columns, &rows(runs));
    format!(
        "<figure><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"All figures\">{table}</div></figure>\n"
    )
}
