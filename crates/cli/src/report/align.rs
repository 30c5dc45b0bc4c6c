//! Aligned text, and lines that several reports have.

use gemma_mlp::Activation;
use gemma_mlp::checkpoint::Resolved;
use std::fmt::Write;

/// Columns of one width each, the first `left` of them flush left.
pub(super) fn align<const N: usize>(rows: &[[String; N]], left: usize) -> String {
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let _ = if column < left {
                write!(line, "{cell:<width$}  ")
            } else {
                write!(line, "{cell:>width$}  ")
            };
        }
        text.extend([line.trim_end(), "\n"]);
    }
    text
}

pub(super) fn activation_line(Resolved { value, reason }: &Resolved<Activation>) -> String {
    format!("activation: {value}: {reason}")
}

pub(super) fn warnings(warnings: &[String]) -> String {
    warnings.iter().map(|warning| format!("warning: {warning}\n")).collect()
}
