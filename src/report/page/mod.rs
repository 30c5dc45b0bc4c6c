//! A drift run as a page for a browser: one file, light and dark, with a table behind every plot.

mod compare;
mod html;
mod sections;

use super::chart::figure;
use super::charts::{Run, drift_plots};
use crate::drift::Drift;

/// The page of one run, or of several side by side. It asks for nothing from elsewhere; whatever text
/// is in the runs stays text.
pub fn drift_page(runs: &[Run]) -> String {
    match runs {
        [Run { drift, .. }] => single(drift),
        runs => compare::page(runs),
    }
}

/// Every chart of the page as a picture that stands alone, under its name.
pub fn drift_figures(runs: &[Run]) -> Vec<(String, String)> {
    let plots = drift_plots(runs).into_iter();
    plots
        .map(|plot| (plot.chart.id.clone(), figure(&plot.chart.title.clone(), &[plot.chart])))
        .collect()
}

fn single(drift: &Drift) -> String {
    let sections = sections::of(drift);
    let names: Vec<_> = sections.iter().map(|s| (s.id, s.name)).collect();
    let mut body = format!(
        "<a class=\"skip\" href=\"#main\">Skip to the report</a>\n<div class=\"wide\">\n{}{}<main id=\"main\">\n",
        sections::header(drift),
        html::contents(&names)
    );
    for section in &sections {
        body +=
            &html::section(section.id, &section.heading, &section.how_to_read, &section.content);
    }
    body += "</main>\n";
    body += &sections::footer(drift);
    body += "</div>\n";
    html::document(&format!("Drift: {}", sections::headline(drift)), &body)
}
