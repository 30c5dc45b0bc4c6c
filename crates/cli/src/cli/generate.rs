//! `gemma-mlp generate`.

use super::args::{ComputeArgs, ModelArgs, SideArgs};
use super::interrupt::Interrupt;
use super::output::Outputs;
use super::progress::Progress;
use super::text::{self, Input};
use crate::report;
use anyhow::Result;
use gemma_mlp::Error;
use gemma_mlp_drift::drift::{self, Side};
use std::path::PathBuf;

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
    /// File with a JSON array of token ids to continue
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    ids: Option<PathBuf>,
    /// How many tokens to generate at most
    #[arg(long, short = 'n', value_name = "TOKENS", default_value_t = 64)]
    sample_len: usize,
}

pub fn run(args: &Args) -> Result<()> {
    let compute = &args.compute;
    let sides = args.sides.sides(compute.dtype());
    let device = compute.device();
    let models = [sides.a, sides.b].map(Side::model);
    let checkpoint = compute.hold(args.model.open()?, &models, &device)?;
    let Input { ids, remarks } = match &args.ids {
        Some(path) => Input { ids: text::ids_of(path)?, remarks: vec![] },
        None => text::of_prompt(&checkpoint, &args.prompt)?,
    };
    let [prompt] = ids.iter().collect::<Vec<_>>()[..] else {
        let reason = format!("--ids has {} texts; one is continued", ids.len());
        return Err(Error::Input(reason).into());
    };
    let stop = Interrupt::listen()?;
    let progress = Progress::new(args.sample_len, "tokens");
    let mut generation =
        drift::generate(&checkpoint, prompt, sides, args.sample_len, &device, |done| {
            progress.set(done);
            stop.flow()
        })?;
    drop(progress);
    generation.remarks.extend(remarks);
    let mut outputs = Outputs::of(stop.asked());
    outputs.print(compute.json, &generation, || report::generation_table(&generation))?;
    outputs.end()
}
