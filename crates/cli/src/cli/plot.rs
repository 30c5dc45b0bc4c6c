//! `gemma-mlp plot`.

use super::args::DTypeArg;
use super::clash::check_outputs;
use super::output::{Outputs, paint};
use crate::report;
use anyhow::{Context, Result};
use gemma_mlp::{Activation, UnknownActivation};
use gemma_mlp_drift::curves::{CurveOptions, Curves, Range};
use std::path::{Path, PathBuf};

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
    let files = [&args.svg, &args.png, &args.csv].into_iter().flatten();
    let files: Vec<&Path> = files.map(PathBuf::as_path).collect();
    check_outputs(&files)?;
    let FunctionArgs { functions, range } = &args.functions;
    let curves = Curves::new(&CurveOptions {
        functions: functions.clone(),
        range: *range,
        derivatives: args.derivative,
        dtype: args.dtype.into(),
    })?;
    let svg = report::curves_svg(&curves);
    let mut outputs = Outputs::default();
    if files.is_empty() {
        outputs.print(false, &(), || report::curves_text(&curves, paint()))?;
    }
    outputs.save(args.svg.as_ref(), |to| Ok(to.write_all(svg.as_bytes())?));
    outputs.save(args.png.as_ref(), |to| {
        Ok(to.write_all(&report::png(&svg).context("cannot draw the picture")?)?)
    });
    outputs
        .save(args.csv.as_ref(), |to| Ok(to.write_all(report::curves_csv(&curves)?.as_bytes())?));
    outputs.end()
}
