//! What was captured, as text for a terminal.

use super::align::{activation_line, remarks};
use super::escape::plain;
use super::number::grouped;
use gemma_mlp_drift::compare::CaptureSummary;
use std::path::Path;

/// What `gemma-mlp capture` prints.
pub(crate) fn capture_table(capture: &CaptureSummary, out: &Path) -> String {
    let mut text = plain(&format!("{}, computed in {}", capture.checkpoint, capture.dtype)) + "\n";
    text += &(activation_line(&capture.activation) + "\n");
    let texts = match capture.texts {
        1 => String::new(),
        n => format!(" in each of {n} texts"),
    };
    text += &format!("input:  {} tokens{texts}\n", grouped(capture.tokens as u64));
    text += &(plain(&format!("dump:   {}", out.display())) + "\n\n");
    for (point, layers) in &capture.points {
        let within = match (point.as_str(), layers) {
            ("embedding" | "normed" | "logits", _) => String::new(),
            (_, 1) => " in 1 layer".into(),
            (_, n) => format!(" in {n} layers"),
        };
        text += &format!("{point}{within}\n");
    }
    text + &remarks(&capture.remarks)
}
