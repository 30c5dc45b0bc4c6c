//! What can be wrong with the input, as types. Every message is one line that names the culprit.

use candle_core::DType;
use std::convert::Infallible;
use std::fmt::{self, Write};
use std::io;
use std::path::PathBuf;

/// A [`std::result::Result`] with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A name that is no activation we know. Its message lists the accepted names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown activation '{}'; accepted: {}", Line(name), accepted.join(", "))]
pub struct UnknownActivation {
    name: String,
    accepted: Vec<&'static str>,
}

impl UnknownActivation {
    pub(crate) fn new(name: &str, accepted: impl IntoIterator<Item = &'static str>) -> Self {
        Self { name: name.to_string(), accepted: accepted.into_iter().collect() }
    }

    pub(crate) fn also_accepted(mut self, names: impl IntoIterator<Item = &'static str>) -> Self {
        self.accepted.extend(names);
        self
    }
}

/// Weights and biases that do not make up a layer or a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidLayer {
    /// A weight that is no matrix, or one without elements.
    #[error("the weight of {layer} has shape {weight:?}; it must be a matrix, [out, in]")]
    Weight {
        /// Which layer: `gate`, `up`, `gate_up`, `down` or `out`, or just `linear`.
        layer: &'static str,
        /// The weight's shape.
        weight: Vec<usize>,
    },
    /// Weights or biases of integers, or in a type that nothing is computed in.
    #[error(
        "{layer} is stored as {dtype:?}; it must be f64, f32, bf16 or f16: dequantise it first"
    )]
    DType {
        /// Which layer.
        layer: &'static str,
        /// What its weight or bias is stored in.
        dtype: DType,
    },
    /// A bias that is not one number for each row of the weight.
    #[error("the bias of {layer} has shape {bias:?}; for a weight of {weight:?} it must be [{}]", weight[0])]
    Bias {
        /// Which layer.
        layer: &'static str,
        /// The weight's shape, `[out, in]`.
        weight: Vec<usize>,
        /// The bias's shape.
        bias: Vec<usize>,
    },
    /// Gate and up of different shapes.
    #[error("gate has shape {gate:?} and up {up:?}; both must be [intermediate, hidden]")]
    GateUp {
        /// The shape of gate's weight.
        gate: Vec<usize>,
        /// The shape of up's weight.
        up: Vec<usize>,
    },
    /// Gate and up in one weight whose rows cannot be halved.
    #[error("gate_up has {rows} rows; it must have twice the intermediate size, gate's rows first")]
    OddGateUp {
        /// The weight's rows.
        rows: usize,
    },
    /// A last layer that does not lead from the intermediate size back to the hidden size.
    #[error("down has shape {down:?}; it must be {expected:?}, [hidden, intermediate]")]
    Down {
        /// The shape of down's weight.
        down: Vec<usize>,
        /// What gate and up ask for.
        expected: Vec<usize>,
    },
    /// A tensor that does not fit the rest of a layer.
    #[error("{layer} has shape {shape:?}; beside the other weights it must be {expected:?}")]
    Shape {
        /// Which tensor.
        layer: &'static str,
        /// Its shape.
        shape: Vec<usize>,
        /// What the others ask for.
        expected: Vec<usize>,
    },
    /// A weight of experts that is no matrix for each, or one without elements.
    #[error("{layer} has shape {weight:?}; it must be [experts, out, in]")]
    Experts {
        /// Which weight.
        layer: &'static str,
        /// Its shape.
        weight: Vec<usize>,
    },
    /// More experts for a row than there are, or none.
    #[error("top k is {top_k}; of {experts} experts it must be 1 to {experts}")]
    TopK {
        /// How many experts a row would get.
        top_k: usize,
        /// How many there are.
        experts: usize,
    },
    /// Indices and weights of a routing that are not of one shape.
    #[error(
        "a routing's indices have shape {indices:?} and its weights {weights:?}; both must be [rows, k]"
    )]
    Routing {
        /// The shape of the indices.
        indices: Vec<usize>,
        /// The shape of the weights.
        weights: Vec<usize>,
    },
    /// Indices of a routing that are no integers.
    #[error("a routing's indices are {dtype:?}; they must be integers")]
    RoutingDType {
        /// What they are stored in.
        dtype: DType,
    },
    /// A last layer whose input is not what its gate makes.
    #[error("out has shape {out:?} and gate {gate:?}; they must be [out, width] and [width, in]")]
    Out {
        /// The shape of out's weight.
        out: Vec<usize>,
        /// The shape of gate's weight.
        gate: Vec<usize>,
    },
    /// A fraction of a gate that no sparsity makes 0.
    #[error(
        "a sparsity of {fraction} is not between 0 and 1 in f32; leave it out where there is none"
    )]
    Sparsity {
        /// The fraction.
        fraction: String,
    },
    /// Sizes that no memory could hold.
    #[error(
        "a block of hidden size {hidden} and intermediate size {intermediate} is larger than any memory"
    )]
    TooLarge {
        /// The hidden size.
        hidden: usize,
        /// The intermediate size.
        intermediate: usize,
    },
}

impl InvalidLayer {
    /// The error about a layer of a name.
    pub(crate) fn of(mut self, name: &'static str) -> Self {
        match &mut self {
            Self::Weight { layer, .. }
            | Self::DType { layer, .. }
            | Self::Bias { layer, .. }
            | Self::Shape { layer, .. }
            | Self::Experts { layer, .. } => *layer = name,
            Self::GateUp { .. }
            | Self::OddGateUp { .. }
            | Self::Down { .. }
            | Self::TopK { .. }
            | Self::Routing { .. }
            | Self::RoutingDType { .. }
            | Self::Out { .. }
            | Self::Sparsity { .. }
            | Self::TooLarge { .. } => {}
        }
        self
    }
}

impl From<InvalidLayer> for candle_core::Error {
    fn from(error: InvalidLayer) -> Self {
        Self::wrap(error)
    }
}

impl From<Infallible> for InvalidLayer {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Why there is no GPU to compute on, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoGpu(pub(crate) String);

/// Why the whole model of a family does not run here, or a part of its config, in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", Line(.0))]
pub struct Unsupported(pub(crate) String);

/// What keeps a checkpoint from being fetched from the Hugging Face Hub.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Not of the form that the Hub gives to repositories.
    #[error("not a repository's id; one is written org/name, in letters, digits, '-', '_' and '.'")]
    InvalidId,
    /// An address that is pasted in place of an id, and does not lead to a model's repository.
    #[error("{0}")]
    InvalidAddress(String),
    /// Not a name that git could give to a branch or tag.
    #[error("'{0}' is not a revision; pass a branch, a tag or a whole commit hash")]
    InvalidRevision(String),
    /// Missing, or private and so not shown.
    #[error(
        "no repository on {endpoint} that you may see, and no directory here; check the spelling, and if it is private set HF_TOKEN"
    )]
    NotFound {
        /// The hub that was asked.
        endpoint: String,
    },
    /// The licence has to be accepted first, by the account that the token is of.
    #[error("a gated repository: accept its licence on {page}, {}", if *signed_in { "with the account that your token belongs to" } else { "then set HF_TOKEN to a token of that account" })]
    Gated {
        /// Where the licence is.
        page: String,
        /// Whether the hub knew the token.
        signed_in: bool,
    },
    /// The hub does not know the token, or wants one.
    #[error("{endpoint} wants a valid token{}; set HF_TOKEN to one of {endpoint}/settings/tokens, or remove an outdated one", bracketed(.message))]
    Unauthorized {
        /// The hub.
        endpoint: String,
        /// Its own words, if any.
        message: String,
    },
    /// The hub knows the token and refuses all the same.
    #[error("{endpoint} refuses access{}; check what your token is allowed to read", bracketed(.message))]
    Forbidden {
        /// The hub.
        endpoint: String,
        /// Its own words, if any.
        message: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("no revision '{0}'; see the branches and tags on its page")]
    RevisionNotFound(String),
    /// The repository is no checkpoint that we read.
    #[error(
        "no {file} in the repository{}; it must have config.json and either model.safetensors or model.safetensors.index.json with its shards", bracketed(.instead)
    )]
    MissingFile {
        /// The file.
        file: String,
        /// What is there in its place, if anything is known of it.
        instead: String,
    },
    /// The repository has no such file.
    #[error("no file {file} in the repository{}; see the files on its page", bracketed(.instead))]
    NoFile {
        /// The file.
        file: String,
        /// Files of its kind that it has, if any are known.
        instead: String,
    },
    /// Too many requests.
    #[error("{endpoint} has had too many requests from here; wait {}, or set HF_TOKEN for a higher limit", seconds.map_or("a while".into(), |s| format!("{s} s")))]
    RateLimited {
        /// The hub.
        endpoint: String,
        /// How long it asks to wait.
        seconds: Option<u64>,
    },
    /// The hub failed.
    #[error("{endpoint} answers {status}{}; try again later", bracketed(.message))]
    Server {
        /// The hub.
        endpoint: String,
        /// HTTP status.
        status: u16,
        /// Its own words, if any.
        message: String,
    },
    /// No connection.
    #[error(
        "cannot reach {endpoint} ({message}); check the network and HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use what is cached"
    )]
    Unreachable {
        /// The hub.
        endpoint: String,
        /// What the system said.
        message: String,
    },
    /// The connection broke within a file. What has arrived is kept.
    #[error(
        "the connection broke after {done} of {size} bytes of {file} ({message}); run again to fetch the rest"
    )]
    Interrupted {
        /// The file.
        file: String,
        /// How much of it is here.
        done: u64,
        /// How much it should be.
        size: u64,
        /// What the system said.
        message: String,
    },
    /// The bytes are not those that the repository lists. They have been removed.
    #[error("{file} arrived damaged: {message}; run again to fetch it anew")]
    Damaged {
        /// The file.
        file: String,
        /// What does not match.
        message: String,
    },
    /// The settings make no client.
    #[error(
        "cannot ask the Hub ({0}); check HF_ENDPOINT, the proxy and the CA certificates of this system"
    )]
    Settings(String),
    /// A variable of the environment that cannot be used.
    #[error("{name} {message}")]
    Variable {
        /// Its name.
        name: &'static str,
        /// What is wrong with its value.
        message: String,
    },
    /// An answer that no hub gives.
    #[error("{endpoint} answers as no hub does ({message}); check HF_ENDPOINT")]
    Protocol {
        /// What was asked.
        endpoint: String,
        /// What is odd.
        message: String,
    },
    /// Offline, and not in the cache.
    #[error("{file} is not in the cache {}, and HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids to fetch it; unset it once", cache.display())]
    NotCached {
        /// The first missing file, or the revision.
        file: String,
        /// The cache.
        cache: PathBuf,
    },
    /// No space for the cache.
    #[error("cannot write {} ({message}); make room, or set HF_HOME to another place", path.display())]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
    /// The cache cannot be written.
    #[error("cannot write {} ({message}); set HF_HOME to a place that you may write", path.display())]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
}

/// ` (message)`, or nothing.
fn bracketed(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(" ({message})") }
}

/// Anything that keeps a checkpoint from being read or a block from being run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("{}: {source}", Line(path.display()))]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A checkpoint directory lacks a file.
    #[error("{}: no such file; {}", Line(path.display()), Line(remedy))]
    MissingFile {
        /// The file.
        path: PathBuf,
        /// What it is and where it comes from.
        remedy: String,
    },
    /// What should be a checkpoint's directory is a file.
    #[error("{}: not a directory: {}", Line(path.display()), Line(remedy))]
    NotADirectory {
        /// What was passed.
        path: PathBuf,
        /// What it is, and what to pass.
        remedy: String,
    },
    /// A file is only what Git leaves in its place.
    #[error("{}: a Git LFS pointer in place of the file; fetch the file itself (git lfs pull), or download it", Line(path.display()))]
    GitLfs {
        /// The file.
        path: PathBuf,
    },
    /// What should be a file is a directory, a pipe or a device.
    #[error("{}: not a file, but a directory, a pipe or a device; put the file itself there", Line(path.display()))]
    NotAFile {
        /// What it is called.
        path: PathBuf,
    },
    /// A file of weights was written to, or cut short, after its header had been checked.
    #[error("{}: changed since it was opened; open it again", Line(path.display()))]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A JSON file (config, index, ids) is malformed or contradicts itself.
    #[error("{}: {}", Line(path.display()), Line(reason))]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// A config names a model whose MLP is not the plain gated block, or no Gemma at all.
    #[error("{}: {}", Line(path.display()), Line(reason))]
    UnsupportedModel {
        /// The config.
        path: PathBuf,
        /// What the model has that the block does not cover.
        reason: String,
    },
    /// A config, or the user, names an activation that we do not know.
    #[error("{}: {source}", Line(path.display()))]
    Activation {
        /// The config.
        path: PathBuf,
        /// The name and the accepted ones.
        source: UnknownActivation,
    },
    /// A safetensors file is truncated, or its header is invalid.
    #[error("{}: not a valid safetensors file ({}); download or export it again", Line(path.display()), Line(reason))]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the parser found.
        reason: String,
    },
    /// A GGUF file is truncated, contradicts itself, or holds what is not read.
    #[error("{}: cannot be read as GGUF: {}", Line(path.display()), Line(reason))]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// No file of the checkpoint has the tensor.
    #[error("{}: no tensor '{}'; {}", Line(path.display()), Line(tensor), Line(remedy))]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What to check.
        remedy: String,
    },
    /// A tensor has another shape than the config says.
    #[error("{}: tensor '{}' has shape {found:?}, the config asks for {expected:?}", Line(path.display()), Line(tensor))]
    Shape {
        /// The safetensors file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its shape there.
        found: Vec<usize>,
        /// The shape that the config implies.
        expected: Vec<usize>,
    },
    /// A weight is stored as integers or in a packed type.
    #[error("{}: tensor '{}' is {}; weights must be F64, F32, BF16 or F16: take the unquantised model or a GGUF file of it, or dequantise it first", Line(path.display()), Line(tensor), Line(dtype))]
    WeightDType {
        /// The safetensors file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its dtype there.
        dtype: String,
    },
    /// A quantised weight cannot be dequantised.
    #[error("{}: tensor '{}' cannot be dequantised: {}", Line(path.display()), Line(tensor), Line(reason))]
    Quantised {
        /// The safetensors file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What is wrong with it or its scales, and what to do.
        reason: String,
    },
    /// The tokenizer is unreadable or failed on the text.
    #[error("{}: {}", Line(path.display()), Line(reason))]
    Tokenizer {
        /// The tokenizer file.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// A checkpoint could not be fetched.
    #[error("{id}: {reason}")]
    Hub {
        /// The repository.
        id: String,
        /// What went wrong.
        reason: HubError,
    },
    /// Weights and biases do not make up a layer or a block.
    #[error(transparent)]
    InvalidLayer(#[from] InvalidLayer),
    /// The text has no tokens, ids are out of the vocabulary, a layer does not exist.
    #[error("{}", Line(.0))]
    Input(String),
    /// candle failed at an operation: out of memory, a device error, or a defect of ours.
    #[error("{}", first_line(.0))]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// Whether the cause lies in what was passed in, as opposed to a failure while computing.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Candle(error) => of_library(error).is_some_and(Self::is_input),
            _ => true,
        }
    }

    /// Itself as candle's, where a function has that alone. [`Self::is_input`] finds it there.
    pub(crate) fn into_candle(self) -> candle_core::Error {
        // candle's own wrapping keeps the text alone.
        candle_core::Error::Io(io::Error::other(self))
    }

    /// The error about a weight or a config, with what the config says that the weights are quantised by.
    pub(crate) fn quantised(mut self, said: Option<String>) -> Self {
        let Some(said) = said else { return self };
        match &mut self {
            Self::MissingTensor { remedy: text, .. } | Self::WeightDType { dtype: text, .. } => {
                *text += &format!(" (config.json: {said})");
            }
            Self::Json { reason, .. } => *reason += &format!(" (its weights are {said})"),
            _ => {}
        }
        self
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// Text out of files, in one line: what would break or steer it is shown as an escape.
#[derive(Debug)]
pub struct Line<T>(pub T);

impl<T: fmt::Display> fmt::Display for Line<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escaped<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Escaped<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|c| match c.is_control() {
                    true => write!(self.0, "{}", c.escape_default()),
                    false => self.0.write_char(c),
                })
            }
        }
        write!(Escaped(f), "{}", self.0)
    }
}

/// One of ours that candle's is made of.
fn of_library(error: &candle_core::Error) -> Option<&Error> {
    match error {
        candle_core::Error::Io(error) => error.get_ref()?.downcast_ref(),
        candle_core::Error::WithBacktrace { inner, .. } => of_library(inner),
        _ => None,
    }
}

/// candle appends a backtrace to its messages when RUST_BACKTRACE is set; one line says enough.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}
