//! `gemma-mlp verify`.

use super::args::DTypeArg;
use super::plot::FunctionArgs;
use super::{paint, print};
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
    print(&if args.json {
        report::json(&verification)?
    } else {
        report::verification_table(&verification, paint())
    })?;
    if !verification.holds() {
        bail!("a function is outside its error bound; please report this");
    }
    Ok(())
}
