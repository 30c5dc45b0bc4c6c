//! `gemma-mlp merge`.

use super::output::OutputArgs;
use super::read;
use crate::report::Run;
use anyhow::Result;
use gemma_mlp_drift::drift::Merger;
use std::path::PathBuf;

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
    let mut merger = Merger::new();
    for path in &args.reports {
        merger.add(&path.display().to_string(), &read(path)?)?;
    }
    let drift = merger.finish()?;
    args.output.drift(&[Run { name: "merged", drift: &drift }], args.json)
}
