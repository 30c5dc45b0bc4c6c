//! Aligned text, and lines that several reports have.

use super::escape::plain;
use comfy_table::{CellAlignment, Row, Table, presets};
use gemma_mlp::Activation;
use gemma_mlp::checkpoint::{Remark, Resolved};

/// Columns of one width each, the first `left` of them flush left.
pub(super) fn align<R: Into<Row>>(rows: impl IntoIterator<Item = R>, left: usize) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).add_rows(rows);
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if i >= left {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt() + "\n"
}

pub(super) fn activation_line(Resolved { value, reason }: &Resolved<Activation>) -> String {
    plain(&format!("activation: {value}: {reason}"))
}

pub(super) fn remarks(remarks: &[Remark]) -> String {
    remarks.iter().map(|remark| plain(&remark.to_string()) + "\n").collect()
}
