//! `gemma-mlp drift`.

use super::args::{DTypeArg, RunArgs};
use super::{print, progress::Progress};
use anyhow::Result;
use candle_core::DType;
use gemma_mlp::drift::{DriftOptions, Side, Sides, drift, floor_sides};
use gemma_mlp::{Activation, report};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Activation of the reference side
    #[arg(long, value_name = "ACTIVATION", default_value = "tanh")]
    a: Activation,
    /// Activation of the side that is compared with it
    #[arg(long, value_name = "ACTIVATION", default_value = "exact")]
    b: Activation,
    /// The dtype whose rounding is the noise floor, measured against f32, or f64 for f32
    /// [default: the checkpoint's]
    #[arg(long, value_name = "DTYPE")]
    floor_dtype: Option<DTypeArg>,
}

pub fn run(args: &Args) -> Result<()> {
    let run = &args.run;
    let checkpoint = run.model.open()?;
    let ids = run.token_ids(&checkpoint)?;
    let side = |activation| Side { activation, dtype: run.dtype() };
    let floor_dtype = args.floor_dtype.map_or(checkpoint.run_dtype(), DType::from);
    let options = DriftOptions {
        sides: Sides { a: side(args.a), b: side(args.b) },
        floor_sides: floor_sides(args.a, floor_dtype)?,
        layers: run.layers(&checkpoint)?,
    };
    let progress = Progress::new(options.layers.len(), "layers");
    let drift = drift(&checkpoint, &ids, &options, &run.device()?, |done| progress.set(done))?;
    drop(progress);
    print(&if run.json { report::json(&drift)? } else { report::drift_table(&drift) })
}
