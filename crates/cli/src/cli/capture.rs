//! `gemma-mlp capture`.

use super::args::{DTypeArg, DeviceArgs, Layers, ModelArgs, TextArgs};
use super::clash::{check_inputs, check_outputs};
use super::forward::{Choice, activation};
use super::interrupt::{Interrupt, Interrupted};
use super::output::Outputs;
use super::progress::Progress;
use super::text::Input;
use crate::report;
use anyhow::Result;
use clap::ValueEnum;
use gemma_mlp::Error;
use gemma_mlp_drift::compare::{CaptureOptions, Point, capture};
use gemma_mlp_drift::drift::Model;
use gemma_mlp_drift::input::TokenIds;
use regex::Regex;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
#[command(override_usage = "gemma-mlp capture [OPTIONS] --out FILE\n       \
                            gemma-mlp capture --script FRAMEWORK")]
pub struct Args {
    /// Print the script that captures what a model in this framework computes
    #[arg(long, value_name = "FRAMEWORK", exclusive = true)]
    script: Option<Script>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Where the dump goes
    #[arg(long, value_name = "FILE", required_unless_present = "script")]
    out: Option<PathBuf>,
    /// Layers to save, as in 0,3-5 [default: all]
    #[arg(long)]
    layers: Option<Layers>,
    /// Save the points whose name matches a regular expression, as in 'mlp\.(gate|activated)|logits'
    /// [default: all]
    #[arg(long, value_name = "REGEX")]
    points: Option<Regex>,
    /// Activation to run: exact, tanh, any framework's name for them, or config for what the
    /// checkpoint means
    #[arg(long, default_value = "config", value_parser = activation)]
    activation: Choice,
    /// Data type to compute in
    #[arg(long, default_value = "f32")]
    dtype: DTypeArg,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Script {
    Transformers,
    Jax,
    Keras,
    Candle,
    #[value(name = "llama.cpp")]
    LlamaCpp,
}

impl Script {
    fn text(self) -> &'static str {
        match self {
            Self::Transformers => include_str!("../../python/gemma_mlp/transformers.py"),
            Self::Jax => include_str!("../../python/gemma_mlp/jax.py"),
            Self::Keras => include_str!("../../python/gemma_mlp/keras.py"),
            Self::LlamaCpp => include_str!("../../python/gemma_mlp/llama_cpp.py"),
            Self::Candle => include_str!("scripts/capture_candle.rs"),
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    let mut outputs = Outputs::default();
    let Some(out) = &args.out else {
        let Some(script) = args.script else {
            return Err(Error::Input("pass --out, or --script".into()).into());
        };
        outputs.print_exactly(script.text());
        return outputs.end();
    };
    let files: [&Path; 1] = [out];
    check_outputs(&files)?;
    check_inputs(&files, args.text.files())?;
    let device = args.device.device();
    let checkpoint =
        args.device.hold(args.model.open()?, &[Model::new(args.dtype.into())], &device)?;
    check_inputs(&files, checkpoint.files())?;
    let Input { ids, remarks } = args.text.texts(&checkpoint)?;
    let ids = TokenIds::batched(ids)?;
    let layers = match &args.layers {
        Some(layers) => layers.of_checkpoint(&checkpoint)?,
        None => vec![],
    };
    let points = |point: Point| {
        args.points.as_ref().is_none_or(|pattern| pattern.is_match(&point.to_string()))
    };
    let options = CaptureOptions {
        activation: args.activation.into(),
        dtype: args.dtype.into(),
        layers,
        points: &points,
    };
    let stop = Interrupt::listen()?;
    let progress = Progress::share();
    let captured = capture(&checkpoint, &ids, &options, &device, |share| {
        progress.set_share(share);
        stop.flow()
    });
    drop(progress);
    let mut capture = match captured {
        // A dump that lacks layers must not be taken for a whole one.
        Err(_) if stop.asked() => return Err(Interrupted::without_results().into()),
        captured => captured?,
    };
    capture.summary.remarks.extend(remarks);
    outputs.save(Some(out), |to| Ok(capture.write_to(to)?));
    let summary = &capture.summary;
    outputs.print(args.json, summary, || report::capture_table(summary, out))?;
    outputs.end()
}
