//! The command-line tool. Exit codes: 0 done, 2 bad input or usage, 130 ended early, 1 anything else; of `compare`
//! 1 says that the models differ, and 3 is anything else.

use gemma_mlp::internal::is_guarded;
use gemma_mlp_cli::cli;
use std::panic;
use std::process::ExitCode;

fn main() -> ExitCode {
    // A panic that is caught is told as an error, in one line.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !is_guarded() {
            hook(info);
        }
    }));
    cli::run()
}
