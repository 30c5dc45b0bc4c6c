//! Tables as comma-separated values (RFC 4180, lines end in a line feed).

use super::escape::csv_cell;

/// A table that grows by rows.
pub(super) struct Csv {
    pub(super) text: String,
}

impl Csv {
    pub(super) fn new(header: &[&str]) -> Self {
        Self { text: header.join(",") + "\n" }
    }

    pub(super) fn row(&mut self, cells: &[String]) {
        let cells: Vec<_> = cells.iter().map(|cell| csv_cell(cell)).collect();
        self.text += &cells.join(",");
        self.text.push('\n');
    }

    /// A number with all its digits; nothing where it is NaN.
    pub(super) fn number(x: f64) -> String {
        match x {
            x if x.is_nan() => String::new(),
            x if x == 0.0 || (1e-4..1e15).contains(&x.abs()) => x.to_string(),
            x => format!("{x:e}"),
        }
    }
}
