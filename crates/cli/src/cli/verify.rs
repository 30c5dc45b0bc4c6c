//! `gemma-mlp verify`.

use super::args::DTypeArg;
use super::output::{Outputs, paint};
use super::plot::FunctionArgs;
use crate::report;
use anyhow::{Result, bail};
use gemma_mlp_drift::curves;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    functions: FunctionArgs,
    /// Data type to compute in
    #[arg(long, default_value = "f32")]
    dtype: DTypeArg,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let FunctionArgs { functions, range } = &args.functions;
    let verification = curves::verify(functions, args.dtype.into(), *range)?;
    let mut outputs = Outputs::default();
    outputs
        .print(args.json, &verification, || report::verification_table(&verification, paint()))?;
    outputs.end()?;
    if !verification.holds() {
        bail!("a function is outside its error bound; please report this");
    }
    Ok(())
}
