//! What is said of a failure, and the exit code.

use super::interrupt::Interrupted;
use crate::report::{Paint, for_terminal};
use gemma_mlp::Error;
use std::io::{self, Write};
use std::process::ExitCode;

/// Says in one line what went wrong, and gives the exit code: 2 if the input is to blame, 130 if the run was
/// ended early, `other` if it is something else.
pub fn fail(error: &anyhow::Error, other: u8) -> ExitCode {
    let line = message(error);
    // Nobody may be there to read it; the exit code still tells.
    if error.is::<Interrupted>() {
        let _ = writeln!(io::stderr(), "{line}");
        return ExitCode::from(130);
    }
    let _ = writeln!(io::stderr(), "error: {line}");
    match error.chain().find_map(is_input) {
        Some(true) => ExitCode::from(2),
        _ => ExitCode::from(other),
    }
}

/// Of one of our own errors, whether the input is to blame.
fn is_input(error: &(dyn std::error::Error + 'static)) -> Option<bool> {
    let of_library = error.downcast_ref::<Error>().map(Error::is_input);
    of_library.or_else(|| Some(error.downcast_ref::<gemma_mlp_drift::Error>()?.is_input()))
}

/// What was done, and what went wrong, in one line. Our own errors say what lies beneath them.
pub fn message(error: &anyhow::Error) -> String {
    let mut parts = vec![];
    for cause in error.chain() {
        parts.push(cause.to_string());
        if is_input(cause).is_some() {
            break;
        }
    }
    for_terminal(&parts.join(": ").replace('\n', " "), Paint::Plain)
}
