//! `gemma-mlp inspect`.

use super::args::ModelArgs;
use super::output::Outputs;
use super::progress::Progress;
use crate::report;
use anyhow::{Result, bail};
use gemma_mlp::checkpoint::inspect;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    /// Fail with exit code 1 if there is a warning, as a check before a fine-tune is published
    #[arg(long)]
    strict: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let checkpoint = args.model.open()?;
    let progress = Progress::new(checkpoint.tensors().entries().count(), "tensors");
    let inspection = inspect(&checkpoint, |done| progress.set(done))?;
    drop(progress);
    let warnings = inspection.remarks.iter().filter(|remark| remark.is_warning()).count();
    let mut outputs = Outputs::default();
    outputs.print(args.json, &inspection, || report::inspect_table(&inspection))?;
    outputs.end()?;
    match warnings {
        n if args.strict && n > 0 => bail!("{n} warnings, and --strict asks for none"),
        _ => Ok(()),
    }
}
