//! The command-line tool. Exit codes: 0 done, 2 bad input or usage, 130 ended early, 1 anything else.

use gemma_mlp_cli::cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::fail(&error),
    }
}
