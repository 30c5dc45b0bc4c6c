//! Several runs side by side.

use super::html::{capitalised, contents, document, plot, section, table};
use crate::report::charts::{Run, drift_plots};
use crate::report::drift::size_name;
use crate::report::escape::escape;
use crate::report::side_by_side::rows;
use std::fmt::Write;

pub(super) fn page(runs: &[Run]) -> String {
    let mut body = format!(
        "<a class=\"skip\" href=\"#main\">Skip to the report</a>\n<div class=\"wide\">\n<header>\n\
         <p class=\"kicker\">gemma-mlp report</p>\n<h1>{} runs side by side</h1>\n</header>\n",
        runs.len()
    );
    let plots = drift_plots(runs);
    let mut names = vec![("verdicts", "Verdicts"), ("figures", "Figures")];
    let ids = [
        ("divergence", "distribution", "Distribution"),
        ("layers", "layers", "Layers"),
        ("residual", "residual", "Residual stream"),
    ];
    names.extend(
        ids.iter().filter(|id| plots.iter().any(|p| p.chart.id == id.0)).map(|id| (id.1, id.2)),
    );
    body += &contents(&names);
    body += "<main id=\"main\">\n";
    body += &section(
        "verdicts",
        "What follows from each",
        "Every run beside its own noise floor.",
        &verdicts(runs),
    );
    let columns: Vec<_> =
        std::iter::once(String::new()).chain(runs.iter().map(|run| run.name.to_string())).collect();
    let figures = table("table-figures", "All figures", &columns, &rows(runs));
    let figures = format!(
        "<figure><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"All figures\">{figures}</div></figure>\n"
    );
    body += &section(
        "figures",
        "Figure by figure",
        "What differs in the first rows is what the runs differ in.",
        &figures,
    );
    for (plot_id, id, _) in ids {
        if let Some(found) = plots.iter().find(|p| p.chart.id == plot_id) {
            let how = "Solid is the drift, dashed of the same colour its noise floor.";
            let how = if plot_id == "divergence" {
                "Each run's drift above its noise floor."
            } else {
                how
            };
            body += &section(id, &found.chart.title, how, &plot(found));
        }
    }
    body += "</main>\n<footer><p>This page asks for nothing from elsewhere.</p></footer>\n</div>\n";
    let names: Vec<_> = runs.iter().map(|run| run.name).collect();
    document(&format!("Drift: {}", names.join(" and ")), &body)
}

fn verdicts(runs: &[Run]) -> String {
    let mut html = "<dl class=\"facts\">\n".to_string();
    for run in runs {
        let verdict = &run.drift.verdict;
        let _ = writeln!(
            html,
            "<dt>{}</dt><dd><span class=\"badge {}\" style=\"margin:0\">{}</span><br>{}</dd>",
            escape(run.name),
            size_name(verdict.size),
            size_name(verdict.size).replace('-', " "),
            escape(&capitalised(&verdict.verdict))
        );
    }
    html + "</dl>\n"
}
