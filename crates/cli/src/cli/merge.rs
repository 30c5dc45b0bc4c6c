//! `gemma-mlp merge`.

use super::clash::{check_inputs, check_outputs};
use super::input::read;
use super::output::{OutputArgs, Outputs};
use crate::report::{self, Run};
use anyhow::Result;
use gemma_mlp_drift::drift::Merger;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// The JSON reports of the parts, as `drift --shard --out` writes them; what `merge` made of some parts is a part too
    #[arg(required = true, value_name = "FILE")]
    reports: Vec<PathBuf>,
    /// Merge only if all N parts are there and complete; else name those to run again
    #[arg(long, value_name = "N")]
    expect: Option<NonZeroUsize>,
    #[command(flatten)]
    output: OutputArgs,
    /// Also write the JSON report to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let files: Vec<&Path> = args.output.files().chain(args.out.as_deref()).collect();
    check_outputs(&files)?;
    check_inputs(&files, args.reports.iter().cloned())?;
    let mut merger = Merger::new();
    for path in &args.reports {
        merger.add(&path.display().to_string(), &read(path)?)?;
    }
    if let Some(parts) = args.expect {
        merger.expect(parts.get())?;
    }
    let drift = merger.finish()?;
    let mut outputs = Outputs::default();
    args.output.drift(&mut outputs, &[Run { name: "merged", drift: &drift }], args.json)?;
    outputs.save(args.out.as_ref(), |to| Ok(to.write_all(report::json(&drift)?.as_bytes())?));
    outputs.end()
}
