//! What can be wrong with the input, as types. Every message is one line that names the culprit.

use std::path::PathBuf;

/// A [`std::result::Result`] with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// A name that is no activation we know. Its message lists the accepted names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown activation '{name}'; accepted: {}", accepted.join(", "))]
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

/// Anything that keeps a checkpoint from being read or a block from being run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A checkpoint directory lacks a file.
    #[error("{}: no such file; {remedy}", path.display())]
    MissingFile {
        /// The file.
        path: PathBuf,
        /// What it is and where it comes from.
        remedy: String,
    },
    /// A JSON file (config, index, ids) is malformed or contradicts itself.
    #[error("{}: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        reason: String,
    },
    /// A config names a model whose MLP is not the plain gated block, or no Gemma at all.
    #[error("{}: {reason}", path.display())]
    UnsupportedModel {
        /// The config.
        path: PathBuf,
        /// What the model has that the block does not cover.
        reason: String,
    },
    /// A config, or the user, names an activation that we do not know.
    #[error("{}: {source}", path.display())]
    Activation {
        /// The config.
        path: PathBuf,
        /// The name and the accepted ones.
        source: UnknownActivation,
    },
    /// A safetensors file is truncated, or its header is invalid.
    #[error("{}: not a valid safetensors file ({reason}); download or export it again", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What the parser found.
        reason: String,
    },
    /// No file of the checkpoint has the tensor.
    #[error("{}: no tensor '{tensor}'; {remedy}", path.display())]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What to check.
        remedy: String,
    },
    /// A tensor has another shape than the config says.
    #[error("{}: tensor '{tensor}' has shape {found:?}, the config asks for {expected:?}", path.display())]
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
    #[error("{}: tensor '{tensor}' is {dtype}; weights must be F64, F32, BF16 or F16: dequantise the checkpoint first", path.display())]
    WeightDType {
        /// The safetensors file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its dtype there.
        dtype: String,
    },
    /// The tokenizer is unreadable or failed on the text.
    #[error("{}: {reason}", path.display())]
    Tokenizer {
        /// The tokenizer file.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// The text has no tokens, ids are out of the vocabulary, a layer does not exist.
    #[error("{0}")]
    Input(String),
    /// candle failed at an operation: out of memory, a device error, or a defect of ours.
    #[error("{}", first_line(.0))]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// Whether the cause lies in what was passed in, as opposed to a failure while computing.
    pub fn is_input(&self) -> bool {
        !matches!(self, Self::Candle(_))
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

/// candle appends a backtrace to its messages when RUST_BACKTRACE is set; one line says enough.
fn first_line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_string()
}
