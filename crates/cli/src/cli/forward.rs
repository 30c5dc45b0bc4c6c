//! `gemma-mlp forward`.

use super::args::RunArgs;
use super::clash::{check_inputs, check_outputs};
use super::output::Outputs;
use super::progress::Progress;
use super::text::Input;
use crate::report;
use anyhow::Result;
use gemma_mlp::Activation;
use gemma_mlp_drift::drift::{Model, Side};
use gemma_mlp_drift::forward::{ForwardOptions, forward};
use gemma_mlp_drift::input::TokenIds;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: RunArgs,
    /// Activation to run: exact, tanh, any framework's name for them, or config for what the
    /// checkpoint means
    #[arg(long, default_value = "config", value_parser = activation)]
    activation: Choice,
    /// Save input, gate, up, activated, product and output of every layer, the residual stream after
    /// it (hidden.N) and the logits as safetensors: a part of what `capture` saves
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// An activation, or that of the config.
#[derive(Clone, Copy)]
pub enum Choice {
    Config,
    Fixed(Activation),
}

impl From<Choice> for Option<Activation> {
    fn from(choice: Choice) -> Self {
        match choice {
            Choice::Config => None,
            Choice::Fixed(activation) => Some(activation),
        }
    }
}

pub fn activation(name: &str) -> Result<Choice, gemma_mlp::UnknownActivation> {
    match name {
        "config" => Ok(Choice::Config),
        name => name.parse().map(Choice::Fixed),
    }
}

pub fn run(args: &Args) -> Result<()> {
    let run = &args.run;
    let files: Vec<&Path> = args.out.as_deref().into_iter().collect();
    check_outputs(&files)?;
    check_inputs(&files, run.files())?;
    let device = run.compute.device();
    let checkpoint =
        run.compute.hold(run.model.open()?, &[Model::new(run.compute.dtype())], &device)?;
    check_inputs(&files, checkpoint.files())?;
    let activation = Option::from(args.activation);
    let meant = checkpoint.config().decoder().activation.value;
    let side = Side::new(activation.unwrap_or(meant), run.compute.dtype());
    let Input { ids, remarks } = run.texts(&checkpoint, side, &device)?;
    let ids = TokenIds::batched(ids)?;
    let options = ForwardOptions {
        activation,
        dtype: run.compute.dtype(),
        layers: run.layers(&checkpoint)?,
        keep: args.out.is_some(),
    };
    let progress = Progress::new(options.layers.len(), "layers");
    let mut forward = forward(&checkpoint, &ids, &options, &device, |done| progress.set(done))?;
    drop(progress);
    forward.summary.remarks.extend(remarks);
    let summary = &forward.summary;
    let mut outputs = Outputs::default();
    outputs.print(run.compute.json, summary, || report::forward_table(summary))?;
    outputs.save(args.out.as_ref(), |to| Ok(forward.write_to(to)?));
    outputs.end()
}
