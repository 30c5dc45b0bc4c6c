//! `gemma-mlp drift`.

use super::args::{DTypeArg, RunArgs, SideArgs};
use super::interrupt::Interrupt;
use super::progress::{Progress, TokenProgress};
use super::{print, write_json};
use anyhow::Result;
use candle_core::DType;
use gemma_mlp::drift::{DriftOptions, Shard, Windowing, drift, floor_sides, gradient_drift, rank};
use gemma_mlp::report;
use std::num::NonZeroUsize;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    sides: SideArgs,
    /// The dtype whose rounding is the noise floor, measured against f32, or f64 for f32
    /// [default: the checkpoint's]
    #[arg(long, value_name = "DTYPE")]
    floor_dtype: Option<DTypeArg>,
    /// How many of a window's first tokens the noise floor is measured on
    #[arg(long, value_name = "TOKENS", default_value = "512")]
    floor_tokens: NonZeroUsize,
    /// The longest text, in tokens, that the model reads at once
    #[arg(long, value_name = "TOKENS", default_value_t = 2048)]
    window: usize,
    /// How far apart windows of longer texts end; less than --window makes them overlap
    /// [default: --window]
    #[arg(long, value_name = "TOKENS")]
    stride: Option<usize>,
    /// Take only a part of the windows, as in 3/16; `merge` adds the parts' JSON up
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<Shard>,
    /// Also compare the gradients of the loss, on the first window
    #[arg(long)]
    gradients: bool,
    /// Also rank the mistakes that ports of this family make, each against side a
    #[arg(long, conflicts_with = "shard")]
    rank: bool,
    /// Also write the JSON report to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn shard(text: &str) -> Result<Shard, String> {
    let parsed = text
        .split_once('/')
        .and_then(|(index, of)| Some(Shard { index: index.parse().ok()?, of: of.parse().ok()? }));
    match parsed {
        Some(shard) if (1..=shard.of).contains(&shard.index) => Ok(shard),
        _ => Err(format!("'{text}' is no part; write 3/16 for the third of sixteen")),
    }
}

pub fn run(args: &Args) -> Result<()> {
    let run = &args.run;
    let checkpoint = run.model.open()?;
    let texts = run.texts(&checkpoint)?;
    let compute = &run.compute;
    let sides = args.sides.sides(compute.dtype());
    let floor_dtype = args.floor_dtype.map_or(checkpoint.run_dtype(), DType::from);
    let options = DriftOptions {
        sides,
        floor_sides: floor_sides(sides.a, floor_dtype)?,
        layers: run.layers(&checkpoint)?,
        floor_tokens: args.floor_tokens.get(),
        windowing: Windowing { window: args.window, stride: args.stride.unwrap_or(args.window) },
        shard: args.shard.unwrap_or(Shard::WHOLE),
    };
    let device = compute.device();
    let stop = Interrupt::listen()?;
    let progress = TokenProgress::new(&stop);
    let mut drift = drift(&checkpoint, &texts, &options, &device, |done| progress.set(done))?;
    drop(progress);
    if args.gradients && !stop.asked() {
        let progress = Progress::new(checkpoint.blocks().len(), "layers of gradients");
        let set = |done| progress.set(done);
        drift.gradients = Some(gradient_drift(&checkpoint, &texts, &options, &device, set)?);
    }
    if args.rank && !stop.asked() {
        let progress = TokenProgress::new(&stop);
        let set = |done| progress.set(done);
        drift.ranking = Some(rank(&checkpoint, &texts, &options, &device, set)?);
    }
    if let Some(path) = &args.out {
        write_json(path, &drift)?;
    }
    print(&if compute.json { report::json(&drift)? } else { report::drift_table(&drift) })
}
