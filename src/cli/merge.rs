//! `gemma-mlp merge`.

use super::print;
use anyhow::Result;
use gemma_mlp::{Error, drift, report};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// The JSON reports of all parts, as `drift --shard` writes them
    #[arg(required = true, value_name = "FILE")]
    reports: Vec<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let mut reports = vec![];
    for path in &args.reports {
        let json = std::fs::read_to_string(path)
            .map_err(|source| Error::Io { path: path.clone(), source })?;
        reports.push((path.display().to_string(), json));
    }
    let drift = drift::merge(&reports)?;
    print(&if args.json { report::json(&drift)? } else { report::drift_table(&drift) })
}
