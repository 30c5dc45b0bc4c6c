//! `gemma-mlp inspect`.

use super::args::ModelArgs;
use super::output::Outputs;
use super::progress::Progress;
use crate::report;
use anyhow::Result;
use gemma_mlp::checkpoint::inspect;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let checkpoint = args.model.open()?;
    let progress = Progress::new(checkpoint.tensors().entries().count(), "tensors");
    let inspection = inspect(&checkpoint, |done| progress.set(done))?;
    drop(progress);
    let mut outputs = Outputs::default();
    outputs.print(args.json, &inspection, || report::inspect_table(&inspection))?;
    outputs.end()
}
