//! Text to token ids, by the checkpoint's own tokenizer.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Where the tokenizer is. It is read when a text is, since ids can be passed without one.
pub(super) enum Tokenizer {
    File(PathBuf),
    Static(&'static [u8]),
}

impl Tokenizer {
    /// Token ids with the special tokens that the tokenizer's post-processor adds.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if text.is_empty() {
            return Err(Error::Input(
                "the prompt is empty; pass a text of at least one character".into(),
            ));
        }
        let (tokenizer, path) = match self {
            Self::File(path) if !path.is_file() => {
                let remedy =
                    "it is needed to read text; copy it beside config.json or pass token ids";
                return Err(Error::MissingFile { path: path.clone(), remedy: remedy.into() });
            }
            Self::File(path) => (tokenizers::Tokenizer::from_file(path), path.as_path()),
            Self::Static(bytes) => {
                (tokenizers::Tokenizer::from_bytes(bytes), Path::new("tokenizer.json"))
            }
        };
        let failed =
            |e: tokenizers::Error| Error::Tokenizer { path: path.into(), reason: e.to_string() };
        let encoding = tokenizer.map_err(failed)?.encode(text, true).map_err(failed)?;
        match encoding.get_ids() {
            [] => Err(Error::Input("the prompt has no tokens".into())),
            ids => Ok(ids.to_vec()),
        }
    }
}
