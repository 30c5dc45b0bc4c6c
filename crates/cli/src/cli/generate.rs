//! `gemma-mlp generate`.

use super::args::{ComputeArgs, ModelArgs, SideArgs};
use super::interrupt::Interrupt;
use super::output::Outputs;
use super::progress::Progress;
use super::text::{self, Input};
use crate::report;
use anyhow::Result;
use gemma_mlp_drift::drift;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sides: SideArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Text to continue
    #[arg(long, value_name = "TEXT", default_value = "Every Friday, Mia and Leo")]
    prompt: String,
    /// How many tokens to generate at most
    #[arg(long, short = 'n', value_name = "TOKENS", default_value_t = 64)]
    sample_len: usize,
}

pub fn run(args: &Args) -> Result<()> {
    let checkpoint = args.model.open()?;
    let Input { ids, remarks } = text::of_prompt(&checkpoint, &args.prompt)?;
    let prompt = ids.iter().flatten().copied().collect::<Vec<_>>();
    let compute = &args.compute;
    let sides = args.sides.sides(compute.dtype());
    let stop = Interrupt::listen()?;
    let progress = Progress::new(args.sample_len, "tokens");
    let device = compute.device();
    let mut generation =
        drift::generate(&checkpoint, &prompt, sides, args.sample_len, &device, |done| {
            progress.set(done);
            stop.flow()
        })?;
    drop(progress);
    generation.remarks.extend(remarks);
    let mut outputs = Outputs::of(stop.asked());
    outputs.print(compute.json, &generation, || report::generation_table(&generation))?;
    outputs.end()
}
