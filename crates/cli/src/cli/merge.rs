//! `gemma-mlp merge`.

use super::clash::{check_inputs, check_outputs};
use super::input::read;
use super::output::{OutputArgs, Outputs};
use crate::report::Run;
use anyhow::Result;
use gemma_mlp_drift::drift::Merger;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// The JSON reports of all parts, as `drift --shard` writes them
    #[arg(required = true, value_name = "FILE")]
    reports: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let files: Vec<&Path> = args.output.files().collect();
    check_outputs(&files)?;
    check_inputs(&files, args.reports.iter().cloned())?;
    let mut merger = Merger::new();
    for path in &args.reports {
        merger.add(&path.display().to_string(), &read(path)?)?;
    }
    let drift = merger.finish()?;
    let mut outputs = Outputs::default();
    args.output.drift(&mut outputs, &[Run { name: "merged", drift: &drift }], args.json)?;
    outputs.end()
}
