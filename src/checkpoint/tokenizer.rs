//! Text to token ids and back, by the checkpoint's own tokenizer.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The tokenizer of a checkpoint. It is read when a text first is, since ids can be passed without
/// one.
pub(super) struct Tokenizer {
    source: Source,
    read: OnceLock<tokenizers::Tokenizer>,
    /// Held while it is read, so that a second thread waits for it.
    reading: Mutex<()>,
}

enum Source {
    File(PathBuf),
    Bytes(&'static [u8]),
}

impl Tokenizer {
    fn new(source: Source) -> Self {
        Self { source, read: OnceLock::new(), reading: Mutex::new(()) }
    }

    pub(super) fn file(path: PathBuf) -> Self {
        Self::new(Source::File(path))
    }

    pub(super) fn bytes(bytes: &'static [u8]) -> Self {
        Self::new(Source::Bytes(bytes))
    }

    /// Token ids with the special tokens that the tokenizer's post-processor adds.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if text.is_empty() {
            return Err(Error::Input(
                "the prompt is empty; pass a text of at least one character".into(),
            ));
        }
        let encoding = self.get()?.encode(text, true).map_err(|e| self.failed(e))?;
        match encoding.get_ids() {
            [] => Err(Error::Input("the prompt has no tokens".into())),
            ids => Ok(ids.to_vec()),
        }
    }

    /// The text of token ids, without special tokens.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String> {
        self.get()?.decode(ids, true).map_err(|e| self.failed(e))
    }

    fn get(&self) -> Result<&tokenizers::Tokenizer> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokenizer) = self.read.get() {
            return Ok(tokenizer);
        }
        let tokenizer = match &self.source {
            Source::File(path) if !path.is_file() => {
                let remedy =
                    "it is needed to read text; copy it beside config.json or pass token ids";
                return Err(Error::MissingFile { path: path.clone(), remedy: remedy.into() });
            }
            Source::File(path) => tokenizers::Tokenizer::from_file(path),
            Source::Bytes(bytes) => tokenizers::Tokenizer::from_bytes(bytes),
        };
        let tokenizer = tokenizer.map_err(|e| self.failed(e))?;
        Ok(self.read.get_or_init(|| tokenizer))
    }

    fn failed(&self, e: tokenizers::Error) -> Error {
        let path = match &self.source {
            Source::File(path) => path,
            Source::Bytes(_) => Path::new("tokenizer.json"),
        };
        Error::Tokenizer { path: path.into(), reason: e.to_string() }
    }
}
