//! Text to token ids and back, by the checkpoint's own tokenizer.

use crate::error::{Error, Result};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The tokenizer of a checkpoint. It is read when a text first is, since ids can be passed without
/// one.
pub(super) struct Tokenizer {
    path: PathBuf,
    /// What would be in the file, if it is inside the program.
    inside: Option<&'static [u8]>,
    whole: Read,
    /// The tokenizer without its merges, which is all that decoding takes and read in a third of the time.
    words: Read,
}

/// What was read, or why it was not. A second thread waits for the one that reads.
type Read = OnceLock<tokenizers::Result<tokenizers::Tokenizer>>;

impl Tokenizer {
    pub(super) fn file(path: PathBuf) -> Self {
        Self { path, inside: None, whole: Read::new(), words: Read::new() }
    }

    #[cfg(any(feature = "embedded", test))]
    pub(super) fn bytes(bytes: &'static [u8]) -> Self {
        Self { inside: Some(bytes), ..Self::file("tokenizer.json".into()) }
    }

    /// Token ids with the special tokens that the tokenizer's post-processor adds.
    pub(super) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        if text.is_empty() {
            return Err(Error::Input(
                "the prompt is empty; pass a text of at least one character".into(),
            ));
        }
        let encoding = self.whole()?.encode(text, true).map_err(|e| self.failed(&e))?;
        match encoding.get_ids() {
            [] => Err(Error::Input("the prompt has no tokens".into())),
            ids => Ok(ids.to_vec()),
        }
    }

    /// The text of token ids, without special tokens.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String> {
        self.words()?.decode(ids, true).map_err(|e| self.failed(&e))
    }

    fn whole(&self) -> Result<&tokenizers::Tokenizer> {
        self.get(&self.whole, |json| tokenizers::Tokenizer::from_bytes(json))
    }

    fn words(&self) -> Result<&tokenizers::Tokenizer> {
        match self.whole.get() {
            Some(Ok(whole)) => Ok(whole),
            _ => self
                .get(&self.words, |json| tokenizers::Tokenizer::from_bytes(without_merges(json)?)),
        }
    }

    fn get<'a>(
        &self,
        kept: &'a Read,
        read: impl FnOnce(&[u8]) -> tokenizers::Result<tokenizers::Tokenizer>,
    ) -> Result<&'a tokenizers::Tokenizer> {
        let json = || match self.inside {
            Some(bytes) => Ok(Cow::Borrowed(bytes)),
            None => fs::read(&self.path).map(Cow::Owned),
        };
        if self.inside.is_none() && kept.get().is_none() && !self.path.is_file() {
            let remedy = "it is needed to read text; copy it beside config.json or pass token ids";
            return Err(Error::MissingFile { path: self.path.clone(), remedy: remedy.into() });
        }
        match kept.get_or_init(|| read(&json()?)) {
            Ok(tokenizer) => Ok(tokenizer),
            Err(e) => Err(self.failed(e)),
        }
    }

    fn failed(&self, e: &tokenizers::Error) -> Error {
        Error::Tokenizer { path: self.path.clone(), reason: e.to_string() }
    }
}

/// A `tokenizer.json` whose model has no merges, if it had any.
fn without_merges(json: &[u8]) -> serde_json::Result<Vec<u8>> {
    type Object<'a> = BTreeMap<String, &'a RawValue>;
    let mut file: Object = serde_json::from_slice(json)?;
    let Some(model) = file.get("model") else { return Ok(json.to_vec()) };
    let mut model: Object = serde_json::from_str(model.get())?;
    let none = serde_json::value::to_raw_value::<[(); 0]>(&[])?;
    model.entry("merges".into()).and_modify(|merges| *merges = &none);
    let model = serde_json::value::to_raw_value(&model)?;
    file.insert("model".into(), &model);
    serde_json::to_vec(&file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_whole() -> Result<()> {
        let json = include_bytes!("../../weights/tiny-gemma3/tokenizer.json");
        let tokenizer = Tokenizer::bytes(json);
        let (words, whole) = (tokenizer.words()?, tokenizer.whole()?);
        assert!(without_merges(json).is_ok_and(|words| words.len() < json.len()));
        for id in 0..whole.get_vocab_size(true) as u32 {
            for ids in [&[id][..], &[7, id, id]] {
                assert_eq!(words.decode(ids, true).ok(), whole.decode(ids, true).ok());
            }
        }
        Ok(())
    }

    #[test]
    fn what_is_no_tokenizer_is_told() {
        for json in [&b""[..], b"{", b"[]", b"{}", br#"{"model": 3}"#, br#"{"model": {}}"#] {
            let tokenizer = Tokenizer::bytes(json);
            for _ in 0..2 {
                let error = tokenizer.decode(&[1]).unwrap_err().to_string();
                assert!(error.contains("tokenizer.json"), "{error}");
            }
        }
    }
}
