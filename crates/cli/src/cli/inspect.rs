//! `gemma-mlp inspect`.

use super::args::ModelArgs;
use super::output::Outputs;
use super::progress::Progress;
use crate::report;
use anyhow::{Result, bail};
use gemma_mlp::Error;
use gemma_mlp::checkpoint::{Checkpoint, Remark, RemarkKind, inspect};

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
    let mut inspection = inspect(&checkpoint, |done| progress.set(done))?;
    inspection.remarks.extend(of_tokenizer(&checkpoint));
    drop(progress);
    let warnings = inspection.remarks.iter().filter(|remark| remark.is_warning()).count();
    let mut outputs = Outputs::default();
    outputs.print(args.json, &inspection, || report::inspect_table(&inspection))?;
    outputs.end()?;
    match warnings {
        1 if args.strict => bail!("1 warning, and --strict asks for none"),
        n if args.strict && n > 1 => bail!("{n} warnings, and --strict asks for none"),
        _ => Ok(()),
    }
}

/// What is odd about the tokenizer, or why there is none to read texts with.
fn of_tokenizer(checkpoint: &Checkpoint) -> Vec<Remark> {
    checkpoint.tokenizer_remarks().unwrap_or_else(|e| {
        let text = format!("no text can be read, but token ids can: {e}");
        vec![match e {
            Error::MissingFile { .. } => Remark::note(RemarkKind::Text, text),
            _ => Remark::warning(RemarkKind::Text, text),
        }]
    })
}
