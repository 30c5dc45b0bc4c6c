//! What can be wrong with logits, logs and log-probabilities that other programs have written.

use crate::error::Error;
use gemma_mlp::internal::Line;
use std::io;
use std::path::Path;

/// Why logits, a log or log-probabilities of another program cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRecording {
    /// It cannot be read.
    #[error("{}", Line(.0))]
    Io(io::Error),
    /// What stands there is not what its format says, or contradicts itself.
    #[error("{}", Line(.0))]
    Malformed(String),
    /// A file that ends too early or too late.
    #[error("it has {actual} bytes where its header asks for {expected}; write it again")]
    Size {
        /// How many bytes it would have.
        expected: u64,
        /// How many it has.
        actual: u64,
    },
    /// It is known, and cannot be compared.
    #[error("{}", Line(.0))]
    Refused(String),
}

impl InvalidRecording {
    /// As the error of a file.
    pub(super) fn of(self, path: &Path) -> Error {
        Error::Recording { path: path.into(), reason: self }
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
            false => Self::Malformed(error.to_string()),
        }
    }
}
