//! `gemma-mlp drift`.

use super::args::{DTypeArg, DeviceArgs, Layers, ModelArgs, TextArgs};
use super::{print, progress::Progress};
use anyhow::Result;
use candle_core::DType;
use gemma_mlp::drift::{DriftOptions, Side, Sides, drift, floor_sides};
use gemma_mlp::{Activation, report};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Activation of the reference side
    #[arg(long, value_name = "ACTIVATION", default_value = "tanh")]
    a: Activation,
    /// Activation of the side that is compared with it
    #[arg(long, value_name = "ACTIVATION", default_value = "exact")]
    b: Activation,
    /// What both sides are computed in
    #[arg(long, default_value = "f32")]
    dtype: DTypeArg,
    /// The dtype whose rounding is the noise floor, measured against f32, or f64 for f32
    /// [default: the checkpoint's]
    #[arg(long, value_name = "DTYPE")]
    floor_dtype: Option<DTypeArg>,
    /// Layers to measure, as in 0,3-5 [default: all]
    #[arg(long)]
    layers: Option<Layers>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let checkpoint = args.model.open()?;
    let ids = args.text.token_ids(&checkpoint)?;
    let dtype = args.dtype.into();
    let side = |activation| Side { activation, dtype };
    // A checkpoint in f64 is only ever run in less.
    let stored =
        Some(checkpoint.dtype()).filter(|&dtype| dtype != DType::F64).unwrap_or(DType::F32);
    let options = DriftOptions {
        sides: Sides { a: side(args.a), b: side(args.b) },
        floor_sides: floor_sides(args.a, args.floor_dtype.map_or(stored, DType::from))?,
        layers: Layers::select(args.layers.as_ref(), &checkpoint)?,
    };
    let progress = Progress::new(options.layers.len(), "layers");
    let drift =
        drift(&checkpoint, &ids, &options, &args.device.device()?, |done| progress.set(done))?;
    drop(progress);
    print(&if args.json { report::json(&drift)? } else { report::drift_table(&drift) })
}
