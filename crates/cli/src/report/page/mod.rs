//! Drift runs and comparisons as pages for a browser: one file, light and dark, with a table behind every plot.

mod compare;
mod document;
mod header;
mod html;
mod plot;
mod section;
mod view;

pub use compare::compare_page;
pub(super) use plot::shown;

use super::chart::figure;
use super::run::Run;
use section::Content;
use view::View;

/// The page of one run, or of several side by side. It loads nothing from the network; whatever text
/// is in the runs stays text.
pub fn drift_page(runs: &[Run]) -> String {
    document::document(&header::of(runs), &View::sections(runs))
}

/// Every chart of the page as a picture that stands alone, under its name.
pub fn drift_figures(runs: &[Run]) -> Vec<(String, String)> {
    let sections = View::sections(runs).into_iter();
    let plots = sections.filter_map(|section| match section.content {
        Content::Plot(plot) => Some(plot.chart),
        Content::Html(_) => None,
    });
    plots
        .map(|chart| (chart.id.clone(), figure(&chart.title, std::slice::from_ref(&chart))))
        .collect()
}
