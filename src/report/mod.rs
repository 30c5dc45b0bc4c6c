//! Results as people and programs read them. Views only: nothing is computed here but layout.

mod align;
mod bench;
mod drift;
mod generation;
mod number;
mod table;

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
