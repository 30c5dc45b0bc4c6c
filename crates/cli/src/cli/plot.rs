//! `gemma-mlp plot`.

use super::args::DTypeArg;
use super::{paint, print, write};
use crate::report;
use anyhow::{Context, Result};
use gemma_mlp::{Activation, UnknownActivation};
use gemma_mlp_drift::curves::{CurveOptions, Curves, Range};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub functions: FunctionArgs,
    /// Also plot derivatives, the difference of GELU's two, and the errors of ours and of candle's
    #[arg(long, visible_alias = "derivatives")]
    derivative: bool,
    /// The half type in which presets are measured
    #[arg(long, default_value = "bf16", value_name = "DTYPE")]
    dtype: DTypeArg,
    /// Write an SVG picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write a PNG picture
    #[arg(long, value_name = "FILE")]
    png: Option<PathBuf>,
    /// Write every point as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

/// What `plot` and `verify` share.
#[derive(clap::Args)]
pub struct FunctionArgs {
    /// Which functions: gelu-exact, gelu-tanh, relu, silu, quick-gelu, or a framework's names for them
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        value_parser = function,
        default_value = "gelu-exact,gelu-tanh,relu,silu"
    )]
    pub functions: Vec<Activation>,
    /// Where, as in -4:4
    #[arg(long, value_name = "LOW:HIGH", default_value = "-4:4", allow_hyphen_values = true)]
    pub range: Range,
}

/// `gelu-exact` is how our own `exact` is written where other functions stand beside it.
fn function(name: &str) -> Result<Activation, UnknownActivation> {
    let own = name.trim().to_lowercase().replace('-', "_");
    match own.as_str() {
        "gelu_exact" => Ok(Activation::EXACT),
        "gelu_tanh" => Ok(Activation::TANH),
        _ => own.parse().or_else(|_| name.parse()),
    }
}

pub fn run(args: &Args) -> Result<()> {
    let FunctionArgs { functions, range } = &args.functions;
    let curves = Curves::new(&CurveOptions {
        functions: functions.clone(),
        range: *range,
        derivatives: args.derivative,
        dtype: args.dtype.into(),
    })?;
    let svg = report::curves_svg(&curves);
    if let Some(path) = &args.svg {
        write(path, svg.as_bytes())?;
    }
    if let Some(path) = &args.png {
        write(path, &report::png(&svg).context("cannot draw the picture")?)?;
    }
    if let Some(path) = &args.csv {
        write(path, report::curves_csv(&curves)?.as_bytes())?;
    }
    match (&args.svg, &args.png, &args.csv) {
        (None, None, None) => print(&report::curves_text(&curves, paint())),
        _ => Ok(()),
    }
}
