//! `gemma-mlp generate`.

use super::args::{ComputeArgs, ModelArgs, SideArgs, TextArgs};
use super::interrupt::Interrupt;
use super::output::Outputs;
use super::progress::Progress;
use super::text::{self, Input};
use crate::report;
use anyhow::{Result, bail};
use gemma_mlp::Checkpoint;
use gemma_mlp_drift::drift;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    sides: SideArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Text to continue [default: "Every Friday, Mia and Leo"]
    #[arg(long, value_name = "TEXT", conflicts_with = "ids")]
    prompt: Option<String>,
    /// File with a JSON array of token ids to continue
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// How many tokens to generate at most
    #[arg(long, short = 'n', value_name = "TOKENS", default_value_t = 64)]
    sample_len: usize,
}

impl Args {
    fn prompt(&self, checkpoint: &Checkpoint) -> Result<Input> {
        let Some(path) = &self.ids else {
            return text::of_prompt(checkpoint, self.prompt.as_deref().unwrap_or(PROMPT));
        };
        let texts = TextArgs { prompt: None, text: vec![], ids: Some(path.clone()) };
        let input = texts.texts(checkpoint)?;
        match input.ids.len() {
            1 => Ok(input),
            n => bail!("{}: {n} texts; generate continues one", path.display()),
        }
    }
}

/// What is continued if nothing else is said.
const PROMPT: &str = "Every Friday, Mia and Leo";

pub fn run(args: &Args) -> Result<()> {
    let checkpoint = args.model.open()?;
    let Input { ids, remarks } = args.prompt(&checkpoint)?;
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
