//! A plot: a chart, and the table of what it shows.

use crate::report::chart::{Chart, Colour};
use crate::report::run::Run;
use gemma_mlp_drift::drift::Token;

/// A chart, and the numbers in it: a row for each place that the reader can stop at.
#[derive(Debug, Clone)]
pub(super) struct Plot {
    /// What is seen.
    pub(super) chart: Chart,
    /// Names of the columns.
    pub(super) columns: Vec<String>,
    /// The rows.
    pub(super) rows: Vec<Vec<String>>,
}

pub(super) fn strings<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(String::from).to_vec()
}

/// What a series of a run is called.
pub(super) fn named(runs: &[Run], run: &Run, what: &str) -> String {
    if runs.len() == 1 { what.to_string() } else { format!("{}: {what}", end_of(run.name)) }
}

/// A name, or the end of a long one: charts have little room.
fn end_of(name: &str) -> String {
    const LONGEST: usize = 40;
    match name.char_indices().rev().nth(LONGEST) {
        Some((start, c)) => format!("…{}", &name[start + c.len_utf8()..]),
        None => name.to_string(),
    }
}

/// The colours of a run and of its floor.
pub(super) fn colours(runs: &[Run], index: usize) -> [Colour; 2] {
    let own = Colour::ALL[index % 7];
    [own, if runs.len() == 1 { Colour::Grey } else { own }]
}

/// A token as it is shown: quoted, control characters escaped.
pub(in crate::report) fn shown(token: &Token) -> String {
    token.text.as_ref().map_or_else(|| format!("token {}", token.id), |text| format!("{text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_long_names_the_end_is_shown() {
        assert_eq!(end_of(&"é".repeat(40)), "é".repeat(40));
        assert_eq!(end_of(&"é".repeat(41)), format!("…{}", "é".repeat(40)));
    }
}
