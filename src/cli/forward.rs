//! `gemma-mlp forward`.

use super::args::{DTypeArg, DeviceArgs, Layers, ModelArgs, TextArgs};
use super::{print, progress::Progress};
use anyhow::Result;
use candle_core::DType;
use gemma_mlp::checkpoint::{BlockSpec, Resolved};
use gemma_mlp::model::{ForwardSummary, forward_block, save_blocks};
use gemma_mlp::{Activation, report};
use std::collections::HashMap;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Activation to run: exact, tanh, any framework's name for them, or config for what the
    /// checkpoint means
    #[arg(long, default_value = "config", value_parser = activation)]
    activation: Choice,
    /// What to compute in
    #[arg(long, default_value = "f32")]
    dtype: DTypeArg,
    /// Layers to run, as in 0,3-5 [default: all]
    #[arg(long)]
    layers: Option<Layers>,
    /// Save input, gate, up, activated, product and output of every layer as safetensors
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
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

impl Choice {
    fn resolve(self, block: &BlockSpec) -> Resolved<Activation> {
        match self {
            Self::Config => block.activation.clone(),
            Self::Fixed(value) => Resolved { value, reason: "--activation asks for it".into() },
        }
    }
}

pub fn run(args: &Args) -> Result<()> {
    let checkpoint = args.model.open()?;
    let ids = args.text.token_ids(&checkpoint)?;
    let (device, dtype) = (args.device.device()?, DType::from(args.dtype));
    let indices = Layers::select(args.layers.as_ref(), checkpoint.blocks().len())?;
    let progress = Progress::new(indices.len(), "layers");
    let (mut layers, mut warnings, mut kept) = (vec![], vec![], vec![]);
    for (done, &index) in indices.iter().enumerate() {
        let block = &checkpoint.blocks()[index];
        let activation = args.activation.resolve(block);
        let forward = forward_block(&checkpoint, block, &ids, activation.value, dtype, &device)?;
        layers.push(forward.summary(activation)?);
        warnings.extend(block.nonfinite_warnings(&checkpoint)?);
        if args.out.is_some() {
            kept.push(forward);
        }
        progress.set(done + 1);
    }
    drop(progress);
    let summary = ForwardSummary {
        schema: 1,
        checkpoint: checkpoint.source().to_string(),
        tokens: ids.seq_len(),
        batch: ids.batch(),
        dtype: dtype.as_str(),
        layers,
        warnings,
    };
    if let Some(path) = &args.out {
        save_blocks(path, &kept, metadata(&summary))?;
    }
    print(&if args.json { report::json(&summary)? } else { report::forward_table(&summary) })
}

/// What the saved tensors are, for whoever opens the file.
fn metadata(summary: &ForwardSummary) -> HashMap<String, String> {
    let activation =
        summary.layers.first().map_or(String::new(), |layer| layer.activation.value.to_string());
    [
        ("format", "pt".to_string()),
        ("producer", concat!("gemma-mlp ", env!("CARGO_PKG_VERSION")).to_string()),
        ("checkpoint", summary.checkpoint.clone()),
        ("activation", activation),
        ("dtype", summary.dtype.to_string()),
    ]
    .map(|(key, value)| (key.to_string(), value))
    .into()
}
