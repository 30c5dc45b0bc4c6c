//! Results as people and programs read them. Views only: nothing is computed here but layout.

mod align;
mod bench;
mod chart;
mod charts;
mod csv;
mod curves;
mod drift;
mod drift_csv;
mod escape;
mod generation;
mod number;
mod page;
mod paint;
mod side_by_side;
mod sparkline;
mod table;
mod verdict;

pub use bench::{bench_table, limits_line};
pub use chart::{Axis, Chart, Colour, Mark, Scale, Series, chart_text, figure};
pub use chart::{PngError, png};
pub use charts::{Plot, Run, drift_plots};
pub use curves::{curve_charts, curves_csv, curves_svg, curves_text, verification_table};
pub use drift::drift_table;
pub use drift_csv::drift_csv;
pub use generation::generation_table;
pub use page::{drift_figures, drift_page};
pub use paint::Paint;
pub use side_by_side::side_by_side_table;
pub use table::{forward_table, inspect_table};

use serde::Serialize;

/// A result as one JSON object, for machines. Figures that are not finite are `null`.
///
/// # Errors
/// None for the results of this crate; a map with keys that are no strings is one.
pub fn json(result: &impl Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(result)? + "\n")
}
