//! `gemma-mlp drift`.

use super::args::{DTypeArg, RunArgs, SideArgs};
use super::clash::{check_inputs, check_outputs};
use super::interrupt::Interrupt;
use super::memory::windows_at_once;
use super::mistakes;
use super::output::{OutputArgs, Outputs};
use super::progress::{Progress, TokenProgress};
use super::text::Input;
use crate::report::{self, Run};
use anyhow::Result;
use candle_core::DType;
use clap::ValueEnum;
use gemma_mlp::checkpoint::{Remark, RemarkKind};
use gemma_mlp_drift::drift::{
    DIFFERENCES, Difference, DriftOptions, Ranked, Score, Shard, Side, Sides, Windowing, drift,
    gradient_drift, rank,
};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::Utf8Chunk;

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
    /// How many of a window's first tokens the noise floor is measured on [default: 512, or all of
    /// them with --score second-half]
    #[arg(long, value_name = "TOKENS")]
    floor_tokens: Option<NonZeroUsize>,
    /// The longest text, in tokens, that the model reads at once
    #[arg(long, value_name = "TOKENS", default_value_t = 2048)]
    window: usize,
    /// Distance between windows of long texts; smaller than --window makes them overlap
    /// [default: --window]
    #[arg(long, value_name = "TOKENS")]
    stride: Option<usize>,
    /// Which positions count: all, or the second half of each window, as in llama.cpp's perplexity
    #[arg(long, value_name = "WHICH", default_value = "all")]
    score: ScoreArg,
    /// How many windows go through a layer before the next one [default: 1; with weights that stay in their
    /// files, as many as there is memory for]
    #[arg(long, value_name = "WINDOWS")]
    windows_at_once: Option<NonZeroUsize>,
    /// Take only a part of the windows, as in 3/16; `merge` combines the parts' JSON reports
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<Shard>,
    /// Also compare the gradients of the loss, on the first window
    #[arg(long)]
    gradients: bool,
    /// Also rank the mistakes that ports of this family make, each against side a: all, or those that are named
    #[arg(long, conflicts_with = "shard", value_name = "NAME", num_args = 0.., value_parser = mistakes::difference)]
    rank: Option<Vec<&'static Difference>>,
    #[command(flatten)]
    output: OutputArgs,
    /// Also write the JSON report to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScoreArg {
    All,
    SecondHalf,
}

impl From<ScoreArg> for Score {
    fn from(score: ScoreArg) -> Self {
        match score {
            ScoreArg::All => Self::All,
            ScoreArg::SecondHalf => Self::SecondHalf,
        }
    }
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
    let run = &args.run;
    let command = command(std::env::args_os().skip(1));
    let files: Vec<&Path> = args.output.files().chain(args.out.as_deref()).collect();
    check_outputs(&files)?;
    check_inputs(&files, run.files())?;
    let checkpoint = run.model.open()?;
    check_inputs(&files, checkpoint.files())?;
    let compute = &run.compute;
    let sides = args.sides.sides(compute.dtype());
    let device = compute.device();
    let floor_dtype = args.floor_dtype.map_or(checkpoint.run_dtype(), DType::from);
    let floor_sides = Sides::floor(sides.a, floor_dtype)?;
    let models = [sides.a, sides.b, floor_sides.a, floor_sides.b].map(Side::model);
    let checkpoint = compute.hold(checkpoint, &models, &device)?;
    let Input { ids: texts, remarks } = run.texts(&checkpoint, sides.a, &device)?;
    let score = Score::from(args.score);
    let floor_tokens = match (args.floor_tokens, score) {
        (Some(tokens), _) => tokens.get(),
        (None, Score::All) => 512,
        (None, Score::SecondHalf) => args.window,
    };
    let options = DriftOptions {
        sides,
        floor_sides,
        layers: run.layers(&checkpoint)?,
        floor_tokens,
        windowing: Windowing {
            window: args.window,
            stride: args.stride.unwrap_or(args.window),
            score,
        },
        shard: args.shard.unwrap_or(Shard::WHOLE),
        windows_at_once: match args.windows_at_once {
            Some(windows) => windows.get(),
            None => windows_at_once(&checkpoint, &models, args.window)?,
        },
    };
    let stop = Interrupt::listen()?;
    let progress = TokenProgress::new(&stop);
    let mut drift = drift(&checkpoint, &texts, &options, &device, |done| progress.set(done))?;
    drop(progress);
    drift.header.remarks.extend(remarks);
    drift.origin.command = Some(command);
    if args.gradients && !stop.asked() {
        let progress = Progress::new(checkpoint.blocks().len(), "layers of gradients");
        let set = |done| progress.set(done);
        drift.gradients = Some(gradient_drift(&checkpoint, &texts, &options, &device, set)?);
    }
    if let Some(named) = args.rank.as_ref().filter(|_| !stop.asked()) {
        let progress = TokenProgress::new(&stop);
        let set = |done| progress.set(done);
        let chosen = if named.is_empty() { DIFFERENCES.iter().collect() } else { named.clone() };
        let ranking = rank(&checkpoint, &texts, &options, chosen, &device, set)?;
        drift.header.remarks.extend(not_ranked(named, &ranking));
        drift.ranking = Some(ranking);
    }
    // Asked to stop in its last window, a run is whole all the same, but not its ranking.
    let lacks = args.rank.is_some() || (args.gradients && drift.gradients.is_none());
    let mut outputs = Outputs::of(stop.asked() && (!drift.complete || lacks));
    args.output.drift(&mut outputs, &[Run { name: "drift", drift: &drift }], compute.json)?;
    outputs.save(args.out.as_ref(), |to| Ok(to.write_all(report::json(&drift)?.as_bytes())?));
    outputs.end()
}

/// What was asked for and is not in a ranking.
fn not_ranked(named: &[&Difference], ranking: &[Ranked]) -> Option<Remark> {
    let ranked =
        |difference: &Difference| ranking.iter().any(|row| row.difference == difference.name);
    let left_out = named.iter().filter(|difference| !ranked(difference));
    let left_out: Vec<_> = left_out.map(|difference| format!("\"{}\"", difference.name)).collect();
    let text = format!(
        "not ranked, as this changes nothing of this model on this text: {}",
        left_out.join(", ")
    );
    (!left_out.is_empty()).then(|| Remark::note(RemarkKind::Unused, text))
}

/// The command line to do the same again: without what says where the result goes, which part of
/// the work was done, or how much memory it took.
fn command(args: impl Iterator<Item = OsString>) -> String {
    let mut command = "gemma-mlp".to_string();
    let mut args = args.peekable();
    if args.peek().is_none_or(|first| first.as_encoded_bytes().starts_with(b"-")) {
        command += " drift";
    }
    while let Some(arg) = args.next() {
        let bytes = arg.as_encoded_bytes();
        let (flag, with_value) = match bytes.iter().position(|&b| b == b'=') {
            Some(end) => (&bytes[..end], true),
            None => (bytes, false),
        };
        match flag {
            b"--json" | b"--stream" => continue,
            b"--out" | b"--html" | b"--csv" | b"--shard" | b"--windows-at-once" => {
                if !with_value {
                    args.next();
                }
                continue;
            }
            _ => {}
        }
        command.push(' ');
        command += &quoted(bytes);
    }
    command
}

/// An argument as a shell reads it: `'…'`, or `$'…'` with escapes where it is not plain text.
fn quoted(arg: &[u8]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=+@".contains(c);
    match std::str::from_utf8(arg) {
        Ok(text) if !text.is_empty() && text.chars().all(plain) => text.into(),
        Ok(text) if !text.chars().any(char::is_control) => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        _ => format!("$'{}'", arg.utf8_chunks().map(escaped).collect::<String>()),
    }
}

/// What stands between `$'` and `'`.
fn escaped(chunk: Utf8Chunk) -> String {
    let mut text = String::new();
    for c in chunk.valid().chars() {
        match c {
            '\'' | '\\' => text.extend(['\\', c]),
            c if c.is_control() => text.extend(c.to_string().bytes().map(hexadecimal)),
            c => text.push(c),
        }
    }
    text.extend(chunk.invalid().iter().copied().map(hexadecimal));
    text
}

fn hexadecimal(byte: u8) -> String {
    format!("\\x{byte:02x}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn commands_to_do_it_again() {
        let command = |args: &[&str]| super::command(args.iter().map(Into::into));
        assert_eq!(command(&[]), "gemma-mlp drift");
        assert_eq!(command(&["--b", "silu", "--json"]), "gemma-mlp drift --b silu");
        let args = [
            "drift",
            "--stream",
            "--prompt",
            "it's",
            "--shard",
            "1/3",
            "--out=a",
            "--html",
            "b",
            "--windows-at-once=2",
            "--rank",
        ];
        assert_eq!(command(&args), r"gemma-mlp drift --prompt 'it'\''s' --rank");
    }

    /// As bash, zsh and ksh read it.
    #[test]
    fn arguments_that_are_no_plain_text() {
        let quoted = |arg: &[u8]| super::quoted(arg);
        assert_eq!(quoted(b"r\xff.json"), r"$'r\xff.json'");
        assert_eq!(quoted("it's\n\u{1b}[31m ä\\".as_bytes()), r"$'it\'s\x0a\x1b[31m ä\\'");
        assert_eq!(quoted(b""), "''");
    }
}
