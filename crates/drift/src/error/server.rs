//! What can go wrong in asking a server.

use gemma_mlp::internal::Line;

/// Why a server gives no log-probabilities.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// What was passed is no address, or the settings for it are wrong.
    #[error("{}", Line(.0))]
    Settings(String),
    /// There is no answer, or not all of it.
    #[error("no answer: {}", Line(.0))]
    Unreachable(String),
    /// It has nothing for us, or not now.
    #[error("it answers {status} to {path}: {}", Line(message))]
    Status {
        /// What was asked.
        path: &'static str,
        /// The status of HTTP.
        status: u16,
        /// Its own words.
        message: String,
    },
    /// It sends us elsewhere, where nobody said to ask.
    #[error("it redirects to {}; if that is right, pass its address", Line(to))]
    Redirect {
        /// Where to.
        to: String,
    },
    /// It has read other tokens than it was sent.
    #[error(
        "it was sent {sent} token ids and has read {read}{}; start it so that ids are read as they are",
        if *read == sent + 1 { ": it seems to put BOS in front, which is there already" } else { "" }
    )]
    Tokens {
        /// How many ids were sent.
        sent: usize,
        /// How many tokens it has read.
        read: usize,
    },
    /// It answers, and none of the ways to ask works.
    #[error(
        "it gives no log-probabilities for token ids, as vLLM and llama-server do: {}", Line(.0)
    )]
    Nothing(String),
}
