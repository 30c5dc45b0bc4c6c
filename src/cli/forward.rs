//! `gemma-mlp forward`.

use super::args::RunArgs;
use super::{print, progress::Progress};
use anyhow::Result;
use gemma_mlp::model::{ForwardOptions, forward_blocks, save_blocks};
use gemma_mlp::{Activation, report};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Activation to run: exact, tanh, any framework's name for them, or config for what the
    /// checkpoint means
    #[arg(long, default_value = "config", value_parser = activation)]
    activation: Choice,
    /// Save input, gate, up, activated, product and output of every layer as safetensors
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy)]
enum Choice {
    Config,
    Fixed(Activation),
}

fn activation(name: &str) -> Result<Choice, gemma_mlp::UnknownActivation> {
    match name {
        "config" => Ok(Choice::Config),
        name => name.parse().map(Choice::Fixed),
    }
}

pub fn run(args: &Args) -> Result<()> {
    let run = &args.run;
    let checkpoint = run.model.open()?;
    let ids = run.token_ids(&checkpoint)?;
    let options = ForwardOptions {
        activation: match args.activation {
            Choice::Config => None,
            Choice::Fixed(activation) => Some(activation),
        },
        dtype: run.dtype(),
        layers: run.layers(&checkpoint)?,
    };
    let progress = Progress::new(options.layers.len(), "layers");
    let (mut kept, mut done) = (vec![], 0);
    let device = run.device()?;
    let summary = forward_blocks(&checkpoint, &ids, &options, &device, |forward| {
        // A big model's tensors are kept only if they are asked for.
        kept.extend(args.out.is_some().then_some(forward));
        done += 1;
        progress.set(done);
    })?;
    drop(progress);
    if let Some(path) = &args.out {
        save_blocks(path, &kept, &summary)?;
    }
    print(&if run.json { report::json(&summary)? } else { report::forward_table(&summary) })
}
