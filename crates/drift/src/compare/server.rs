//! What a server says of token ids.

use super::dump::Dump;
use crate::error::{Error, Result};
use crate::input::Texts;
use std::ops::ControlFlow;

/// How to ask.
#[derive(Debug, Clone)]
pub struct AskOptions {
    /// The model's name, where a server has several.
    pub model: Option<String>,
    /// How many of the likeliest tokens to ask for at each position.
    pub top: usize,
}

/// Asks a server.
///
/// # Errors
/// Not there yet.
pub fn ask(
    _url: &str,
    _ids: &Texts,
    _options: &AskOptions,
    _progress: impl FnMut(f64) -> ControlFlow<()>,
) -> Result<Dump> {
    Err(Error::NoIds)
}
