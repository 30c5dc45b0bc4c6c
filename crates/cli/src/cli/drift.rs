//! `gemma-mlp drift`.

use super::args::{DTypeArg, RunArgs, SideArgs};
use super::interrupt::Interrupt;
use super::output::OutputArgs;
use super::progress::{Progress, TokenProgress};
use super::text::Texts;
use super::{check_writable, write};
use crate::report::{self, Run};
use anyhow::Result;
use candle_core::DType;
use gemma_mlp_drift::drift::{DriftOptions, Shard, Sides, Windowing, drift, gradient_drift, rank};
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
    /// Distance between windows of long texts; smaller than --window makes them overlap
    /// [default: --window]
    #[arg(long, value_name = "TOKENS")]
    stride: Option<usize>,
    /// Take only a part of the windows, as in 3/16; `merge` combines the parts' JSON reports
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<Shard>,
    /// Also compare the gradients of the loss, on the first window
    #[arg(long)]
    gradients: bool,
    /// Also rank the mistakes that ports of this family make, each against side a
    #[arg(long, conflicts_with = "shard")]
    rank: bool,
    #[command(flatten)]
    output: OutputArgs,
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
        _ => Err(format!("'{text}' is not a shard; write 3/16 for the third of sixteen")),
    }
}

pub fn run(args: &Args) -> Result<()> {
    check_writable(args.output.files().chain(&args.out))?;
    let run = &args.run;
    let checkpoint = run.model.open()?;
    let Texts { ids: texts, remarks } = run.texts(&checkpoint)?;
    let compute = &run.compute;
    let sides = args.sides.sides(compute.dtype());
    let floor_dtype = args.floor_dtype.map_or(checkpoint.run_dtype(), DType::from);
    let options = DriftOptions {
        sides,
        floor_sides: Sides::floor(sides.a, floor_dtype)?,
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
    drift.header.remarks.extend(remarks);
    drift.origin.command = Some(command(std::env::args().skip(1)));
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
        write(path, report::json(&drift)?.as_bytes())?;
    }
    args.output.drift(&[Run { name: "drift", drift: &drift }], compute.json)
}

/// The command line to do the same again: without what says where the result goes, or which part of
/// the work was done.
fn command(args: impl Iterator<Item = String>) -> String {
    let mut command = "gemma-mlp".to_string();
    let mut args = args.peekable();
    if args.peek().is_none_or(|first| first.starts_with('-')) {
        command += " drift";
    }
    while let Some(arg) = args.next() {
        let (flag, value) = arg.split_once('=').map_or((&arg[..], None), |(f, v)| (f, Some(v)));
        match flag {
            "--json" => continue,
            "--out" | "--html" | "--csv" | "--shard" => {
                if value.is_none() {
                    args.next();
                }
                continue;
            }
            _ => {}
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=+@".contains(c);
        command.push(' ');
        if !arg.is_empty() && arg.chars().all(plain) {
            command += &arg;
        } else {
            command += &format!("'{}'", arg.replace('\'', r"'\''"));
        }
    }
    command
}

#[cfg(test)]
mod tests {
    #[test]
    fn commands_to_do_it_again() {
        let command = |args: &[&str]| super::command(args.iter().map(|arg| arg.to_string()));
        assert_eq!(command(&[]), "gemma-mlp drift");
        assert_eq!(command(&["--b", "silu", "--json"]), "gemma-mlp drift --b silu");
        let args =
            ["drift", "--prompt", "it's", "--shard", "1/3", "--out=a", "--html", "b", "--rank"];
        assert_eq!(command(&args), r"gemma-mlp drift --prompt 'it'\''s' --rank");
    }
}
