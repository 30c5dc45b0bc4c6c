//! Results as people and programs read them. Views only: nothing is computed here but layout.

mod align;
mod bench;
mod capture;
mod chart;
mod compare;
mod compare_csv;
mod compared;
mod csv;
mod curves;
mod drift;
mod drift_csv;
mod escape;
mod figures;
mod generation;
mod number;
mod page;
mod paint;
mod run;
mod side_by_side;
mod sparkline;
mod surroundings;
mod table;
mod verdict;

pub use bench::limits_line;
pub use chart::{PngError, png};
pub use compare::compare_table;
pub use compare_csv::compare_csv;
pub use drift::drift_table;
pub use drift_csv::drift_csv;
pub use page::{compare_page, drift_page};
pub use paint::Paint;
pub use run::Run;

pub(crate) use bench::bench_table;
pub(crate) use capture::capture_table;
pub(crate) use curves::{curves_csv, curves_svg, curves_text, verification_table};
pub(crate) use escape::for_terminal;
pub(crate) use generation::generation_table;
pub(crate) use page::drift_figures;
pub(crate) use side_by_side::side_by_side_table;
pub(crate) use table::{forward_table, inspect_table};

use serde::Serialize;

/// A result as one JSON object, for machines. Figures that are not finite are `null`.
///
/// # Errors
/// None for the results of this crate; a map with keys that are no strings is one.
pub fn json(result: &impl Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(result)? + "\n")
}
