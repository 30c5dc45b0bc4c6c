//! `gemma-mlp merge`.

use super::output::OutputArgs;
use super::read;
use crate::report::Run;
use anyhow::Result;
use gemma_mlp_drift::drift;
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
    let named = |path: &PathBuf| Ok((path.display().to_string(), read(path)?));
    let reports = args.reports.iter().map(named).collect::<Result<Vec<_>>>()?;
    let drift = drift::merge(&reports)?;
    args.output.drift(&[Run { name: "merged", drift: &drift }], args.json)
}
