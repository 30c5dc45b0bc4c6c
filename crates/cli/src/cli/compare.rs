//! `gemma-mlp compare`.

use super::args::{DTypeArg, DeviceArgs, Layers, ModelArgs, TextArgs};
use super::clash::{check_inputs, check_outputs};
use super::input::read;
use super::interrupt::{Interrupt, Interrupted};
use super::mistakes;
use super::output::{OutputArgs, Outputs};
use super::progress::Progress;
use super::text::Input;
use super::tokens::give_tokens;
use crate::report;
use anyhow::Result;
use candle_core::DType;
use gemma_mlp::Error;
use gemma_mlp_drift::compare::formats;
use gemma_mlp_drift::compare::server::Server;
use gemma_mlp_drift::compare::{
    Allow, CompareOptions, Comparison, Dump, Names, compare, compare_dumps, resolve,
};
use gemma_mlp_drift::drift::{Difference, Model};
use gemma_mlp_drift::input::TokenIds;
use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The exit code where the models differ.
const DIFFERS: u8 = 1;
/// The exit code of a failure that is neither a difference nor the input's.
pub const FAILED: u8 = 3;

#[derive(clap::Args)]
#[command(override_usage = "gemma-mlp compare [OPTIONS] THEIRS [OURS]\n       \
                            gemma-mlp compare [OPTIONS] --server URL")]
pub struct Args {
    /// What the other program computed: a file or folder
    #[arg(required_unless_present = "server")]
    theirs: Option<PathBuf>,
    /// What it is compared with, instead of a model: another dump on the same tokens. Nothing can be
    /// computed on the same input then, and no mistake is named
    #[arg(conflicts_with_all = ["model", "revision", "server"])]
    ours: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    /// A right dump of another framework on the same tokens; how far it is from ours counts as
    /// rounding too. May be given more than once
    #[arg(long, value_name = "FILE")]
    reference: Vec<PathBuf>,
    /// JSON that gives the points' names to tensors of other names (docs/compare.md)
    #[arg(long, value_name = "FILE")]
    map: Option<PathBuf>,
    /// Layers to report, as in 0,3-5 [default: all]
    #[arg(long)]
    layers: Option<Layers>,
    /// Let points whose name matches a regular expression differ by this many times their floor. May
    /// be given more than once; the last rule that matches counts
    #[arg(long, value_name = "REGEX=RATIO")]
    allow: Vec<Allow>,
    /// Put a known mistake into our model first, by its name in a report, to find what is behind it.
    /// May be given more than once
    #[arg(long, value_name = "NAME", value_parser = mistakes::mistake, conflicts_with = "ours")]
    with: Vec<&'static Difference>,
    /// Let our model round what llama.cpp rounds on a CPU, where theirs is a dump of llama.cpp: GELU in
    /// f16, and the inputs of matrix products as the weights' types need it. What is left is what f32
    /// rounds
    #[arg(long, conflicts_with_all = ["ours", "server"])]
    like_theirs: bool,
    /// What their model computed in, where the dump does not say
    #[arg(long)]
    dtype: Option<DTypeArg>,
    /// File with a JSON array of token ids, or an array of such arrays: the tokens of a dump that
    /// holds none, or what a server is asked
    #[arg(long, value_name = "FILE", group = "input")]
    ids: Option<PathBuf>,
    /// Compare with what a server says: the address of an OpenAI-compatible one, as in
    /// http://localhost:8000
    #[arg(long, value_name = "URL", conflicts_with = "theirs")]
    server: Option<String>,
    /// The model's name on the server, where it has several
    #[arg(long, value_name = "NAME")]
    server_model: Option<String>,
    /// How many of the likeliest tokens to ask a server for at each position [default: 20]
    #[arg(long, value_name = "K")]
    top: Option<NonZeroUsize>,
    /// Text to ask a server about [default: a paragraph of simple English]
    #[arg(long, value_name = "TEXT", group = "input")]
    prompt: Option<String>,
    /// Files with texts to ask a server about, in UTF-8
    #[arg(long, value_name = "FILE", group = "input")]
    text: Vec<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    output: OutputArgs,
    /// Also write the JSON report to a file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// How many of the likeliest tokens a server is asked for.
const TOP: usize = 20;

impl Args {
    /// Refuses what only a server is asked. (clap's `requires` is silent about an argument that a third one excludes.)
    fn check(&self) -> Result<()> {
        let of_server = [
            ("--prompt", self.prompt.is_some()),
            ("--text", !self.text.is_empty()),
            ("--server-model", self.server_model.is_some()),
            ("--top", self.top.is_some()),
        ];
        match of_server.iter().find(|(_, is_given)| *is_given && self.server.is_none()) {
            Some((flag, _)) => Err(Error::Input(format!(
                "{flag} goes with --server; a dump has its tokens in it, or takes them from --ids"
            ))
            .into()),
            None => Ok(()),
        }
    }

    fn texts(&self) -> TextArgs {
        let Self { prompt, text, ids, .. } = self;
        TextArgs { prompt: prompt.clone(), text: text.clone(), ids: ids.clone() }
    }

    /// Every file that is read.
    fn inputs(&self) -> impl Iterator<Item = PathBuf> {
        let dumps = self.theirs.iter().chain(&self.ours).chain(&self.reference);
        dumps.chain(&self.map).chain(&self.text).chain(&self.ids).cloned()
    }

    /// Reads dumps. Those that hold no tokens get the ones that were passed.
    fn reader(&self) -> Result<impl Fn(&PathBuf) -> Result<Dump> + use<>> {
        let names = match &self.map {
            Some(path) => Names::from_json(&path.display().to_string(), &read(path)?)?,
            None => Names::default(),
        };
        let ids = self.texts().ids()?;
        Ok(move |path: &PathBuf| {
            let mut dump = formats::read(path, &names)?;
            if let Some(ids) = &ids {
                give_tokens(&mut dump, ids)?;
            }
            Ok(dump)
        })
    }

    fn options(&self, layers: Vec<usize>, references: Vec<Dump>) -> CompareOptions {
        CompareOptions {
            layers,
            dtype: self.dtype.map(DType::from),
            allow: self.allow.clone(),
            references,
            with: self.with.clone(),
            like_theirs: self.like_theirs,
            tokens: None,
        }
    }
}

pub fn run(args: &Args) -> Result<ExitCode> {
    args.check()?;
    let files: Vec<&Path> = args.output.files().chain(args.out.as_deref()).collect();
    check_outputs(&files)?;
    check_inputs(&files, args.inputs())?;
    let stop = Interrupt::listen()?;
    let progress = Progress::share();
    let done = |share| {
        progress.set_share(share);
        stop.flow()
    };
    let compared = match (&args.theirs, &args.ours) {
        (Some(theirs), Some(ours)) => with_dump(args, theirs, ours, done),
        (theirs, _) => with_model(args, theirs.as_ref(), &files, done),
    };
    drop(progress);
    let comparison = match compared {
        // Half a comparison says nothing, and nothing of it is left.
        Err(_) if stop.asked() => return Err(Interrupted::without_results().into()),
        compared => compared?,
    };
    let mut outputs = Outputs::default();
    args.output.comparison(&mut outputs, &comparison, args.json)?;
    outputs.save(args.out.as_ref(), |to| Ok(to.write_all(report::json(&comparison)?.as_bytes())?));
    outputs.end()?;
    Ok(if comparison.agrees { ExitCode::SUCCESS } else { ExitCode::from(DIFFERS) })
}

/// A dump, or what a server says, against our own model.
fn with_model(
    args: &Args,
    theirs: Option<&PathBuf>,
    files: &[&Path],
    mut done: impl FnMut(f64) -> ControlFlow<()>,
) -> Result<Comparison> {
    let read = args.reader()?;
    let theirs = theirs.map(&read).transpose()?;
    let references = args.reference.iter().map(&read).collect::<Result<_>>()?;
    let device = args.device.device();
    let checkpoint = args.device.hold(args.model.open()?, &[Model::new(DType::F32)], &device)?;
    check_inputs(files, checkpoint.files())?;
    let layers = match &args.layers {
        Some(layers) => layers.of_checkpoint(&checkpoint)?,
        None => vec![],
    };
    let mut options = args.options(layers, references);
    if args.server.is_none() {
        // What should have been run; a dump says itself what was.
        options.tokens = args.texts().ids()?.and_then(|ids| match ids.len() {
            1 => ids.iter().next().map(<[u32]>::to_vec),
            _ => None,
        });
    }
    let (mut theirs, remarks) = match (theirs, &args.server) {
        (Some(dump), _) => (dump, vec![]),
        (None, Some(url)) => {
            let Input { ids, remarks } = args.texts().texts(&checkpoint)?;
            for text in ids.iter() {
                // Before the server is asked, which takes its time.
                TokenIds::single(text.to_vec())?.check(checkpoint.config().stacks[0].vocab_size)?;
            }
            let server = Server { model: args.server_model.clone(), ..Server::new(url) };
            let ids: Vec<Vec<u32>> = ids.iter().map(<[u32]>::to_vec).collect();
            let top = args.top.map_or(TOP, NonZeroUsize::get);
            let mut answered = |positions: usize, of: usize| {
                let _ = done(positions as f64 / of.max(1) as f64);
            };
            (server.ask(&ids, top, &mut answered)?, remarks)
        }
        (None, None) => return Err(Error::Input("pass a dump, or --server".into()).into()),
    };
    resolve(&mut theirs, &checkpoint)?;
    let mut comparison = compare(&theirs, &checkpoint, &options, &device, done)?;
    comparison.remarks.extend(remarks);
    Ok(comparison)
}

/// Two dumps.
fn with_dump(
    args: &Args,
    theirs: &PathBuf,
    ours: &PathBuf,
    done: impl FnMut(f64) -> ControlFlow<()>,
) -> Result<Comparison> {
    let read = args.reader()?;
    let (theirs, ours) = (read(theirs)?, read(ours)?);
    let references = args.reference.iter().map(&read).collect::<Result<_>>()?;
    let layers = match &args.layers {
        Some(layers) => layers_of_both(layers, [&theirs, &ours])?,
        None => vec![],
    };
    Ok(compare_dumps(&theirs, &ours, &args.options(layers, references), done)?)
}

/// The chosen layers that both dumps have something of.
fn layers_of_both(layers: &Layers, dumps: [&Dump; 2]) -> Result<Vec<usize>> {
    let [theirs, ours] = dumps.map(|dump| {
        let points = dump.texts.iter().flat_map(|t| t.planes.keys().chain(t.glimpses.keys()));
        points.filter_map(|point| point.layer()).collect::<BTreeSet<_>>()
    });
    let chosen: Vec<_> = layers.among(theirs.intersection(&ours).copied()).collect();
    if chosen.is_empty() {
        return Err(Error::Input("--layers: both dumps have none of these layers".into()).into());
    }
    Ok(chosen)
}
