//! What holds of every answer.

use gemma_mlp::checkpoint::Remark;
use std::fmt::Display;

/// Messages are one line, and nothing in them steers a terminal.
pub fn one_line(message: impl Display) {
    let message = message.to_string();
    assert!(!message.is_empty(), "an error says something");
    assert!(!message.contains(char::is_control), "more than a line: {message:?}");
}

/// A result, whose error is one line.
pub fn told<T, E: Display>(result: Result<T, E>) -> Option<T> {
    result.inspect_err(|error| one_line(error)).ok()
}

/// Remarks are lines too.
pub fn remarks(remarks: &[Remark]) {
    remarks.iter().for_each(one_line);
    assert!(remarks.len() < 10_000, "{} remarks", remarks.len());
}
