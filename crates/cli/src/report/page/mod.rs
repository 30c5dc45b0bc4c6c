//! A drift run as a page for a browser: one file, light and dark, with a table behind every plot.

mod html;
mod side_by_side;
mod single;

use super::chart::figure;
use super::charts::{Plot, Run, drift_plots};

/// The page of one run, or of several side by side. It asks for nothing from elsewhere; whatever text
/// is in the runs stays text.
pub fn drift_page(runs: &[Run]) -> String {
    match runs {
        [Run { drift, .. }] => single::page(drift),
        runs => side_by_side::page(runs),
    }
}

/// Every chart of the page as a picture that stands alone, under its name.
pub fn drift_figures(runs: &[Run]) -> Vec<(String, String)> {
    let picture = |Plot { chart, .. }: Plot| {
        (chart.id.clone(), figure(&chart.title, std::slice::from_ref(&chart)))
    };
    drift_plots(runs).into_iter().map(picture).collect()
}
