//! What can be wrong with logits, logs and log-probabilities of other programs, before it is known in which
//! file.

use crate::error::{Error, InvalidDump};
use std::fmt;
use std::io;
use std::path::Path;

/// Why they cannot be used.
#[derive(Debug)]
pub(crate) enum InvalidRecording {
    /// They cannot be read.
    Io(io::Error),
    /// What stands there contradicts its format or itself, or is known and cannot be compared.
    Invalid(String),
}

impl InvalidRecording {
    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    /// A file that ends too early or too late.
    pub(super) fn size(expected: u64, actual: u64) -> Self {
        Self::Invalid(format!(
            "it has {actual} bytes where its header asks for {expected}; write it again"
        ))
    }

    /// As the error of a file.
    pub(super) fn of(self, path: &Path) -> Error {
        match self {
            Self::Io(source) => gemma_mlp::Error::Io { path: path.into(), source }.into(),
            Self::Invalid(text) => Error::dump(path, InvalidDump::Malformed(text)),
        }
    }
}

impl fmt::Display for InvalidRecording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Invalid(text) => f.write_str(text),
        }
    }
}

impl From<io::Error> for InvalidRecording {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<serde_json::Error> for InvalidRecording {
    fn from(error: serde_json::Error) -> Self {
        match error.is_io() {
            true => Self::Io(error.into()),
            false => Self::Invalid(error.to_string()),
        }
    }
}
