//! Results as people and programs read them. Views only: nothing is computed here but layout.

mod align;
mod bench;
mod chart;
mod csv;
mod curves;
mod drift;
mod escape;
mod generation;
mod number;
mod paint;
mod table;

pub use chart::{Axis, Chart, Colour, Mark, Scale, Series, chart_text, figure};
#[cfg(feature = "png")]
pub use chart::{PngError, png};
pub use curves::{curve_charts, curves_csv, curves_svg, curves_text, verification_table};
pub use paint::Paint;
pub use bench::{bench_table, limits_line};
pub use drift::drift_table;
pub use generation::generation_table;
pub use table::{forward_table, inspect_table};

use serde::Serialize;

/// A result as one JSON object, for machines. Figures that are not finite are `null`.
///
/// # Errors
/// None for the results of this crate; a map with keys that are no strings is one.
pub fn json(result: &impl Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(result)? + "\n")
}
