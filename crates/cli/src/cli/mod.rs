//! Flags, progress and which report to write. What is computed is the library's business.

mod args;
mod bench;
mod capture;
mod clash;
mod compare;
mod drift;
mod failure;
mod forward;
mod generate;
mod input;
mod inspect;
mod interrupt;
mod memory;
mod merge;
mod mistakes;
mod output;
mod plot;
mod progress;
mod report;
mod save;
mod target;
mod text;
mod tokens;
mod verify;

use anyhow::Result;
use clap::{Parser, Subcommand};
use failure::fail;
use std::process::ExitCode;

/// Is this Gemma MLP right, and does the difference matter?
///
/// Without a subcommand it measures the drift of exact against tanh GELU on the checkpoint inside
/// the program.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    drift: drift::Args,
}

#[derive(Subcommand)]
enum Command {
    /// Measure how far two ways of computing the model are apart, beside the noise floor (what rounding
    /// alone changes)
    Drift(drift::Args),
    /// Compare what another program's Gemma computed with ours: the first place where it is wrong, and
    /// the mistake's name
    ///
    /// THEIRS is a dump: a file in which another program has written what its model computed, made by
    /// the script that `gemma-mlp capture --script FRAMEWORK` prints, by the Python package, or by
    /// other programs (docs/compare.md has their formats). It is compared with our own model of --model
    /// on the very tokens in the dump, or with OURS, a second dump. With --server, what a running
    /// server says of a text takes the place of a dump.
    ///
    /// Exit codes: 0 nothing differs by more than rounding, 1 something does, 2 the two cannot be
    /// compared or the input is bad, 3 any other failure, 130 ended early.
    Compare(compare::Args),
    /// Save what a Gemma computes: ours, or, with a script that is printed, another framework's
    ///
    /// The file is a dump, which `gemma-mlp compare` reads: safetensors with the tokens and, by fixed
    /// names, the numbers at each point of the model (docs/compare.md). With --script nothing is run:
    /// the script is printed, and run beside your own model it writes the same kind of file.
    Capture(capture::Args),
    /// Combine the JSON reports of a split drift run
    Merge(merge::Args),
    /// Show drift runs again from their JSON reports, or several side by side
    Report(report::Args),
    /// Continue a prompt greedily under both sides
    Generate(generate::Args),
    /// Run the model on a prompt and print or save what happens inside
    Forward(forward::Args),
    /// Say what a checkpoint is, which activation it means and why
    Inspect(inspect::Args),
    /// Plot GELU in its two forms beside SiLU and ReLU, their difference, and each framework's
    /// rounding errors
    Plot(plot::Args),
    /// Compare our functions with candle's own and with a high-precision reference
    Verify(verify::Args),
    /// Measure how fast one block is, beside candle's operations and this machine's limits
    Bench(bench::Args),
}

impl Command {
    fn run(&self) -> Result<ExitCode> {
        match self {
            Self::Compare(args) => return compare::run(args),
            Self::Capture(args) => capture::run(args),
            Self::Drift(args) => drift::run(args),
            Self::Merge(args) => merge::run(args),
            Self::Report(args) => report::run(args),
            Self::Generate(args) => generate::run(args),
            Self::Forward(args) => forward::run(args),
            Self::Inspect(args) => inspect::run(args),
            Self::Plot(args) => plot::run(args),
            Self::Verify(args) => verify::run(args),
            Self::Bench(args) => bench::run(args),
        }?;
        Ok(ExitCode::SUCCESS)
    }

    /// The exit code of a failure that is not the input's. Of `compare` it must not look like a difference.
    fn failure(&self) -> u8 {
        if let Self::Compare(_) = self { compare::FAILED } else { 1 }
    }
}

/// Parses the command line, does what it says, and gives the exit code.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let command = cli.command.unwrap_or(Command::Drift(cli.drift));
    // On one of the threads that compute: any other is put to sleep and woken around every loop
    // that they share, which costs a tenth of a model's speed.
    let done = rayon::scope(|_| command.run());
    done.unwrap_or_else(|error| fail(&error, command.failure()))
}
