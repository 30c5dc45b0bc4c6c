//! Token ids, which a model reads.

use super::texts::Texts;
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};

/// Token ids of one text or of a batch of equally long ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIds {
    ids: Vec<u32>,
    batch: usize,
    /// What an encoder reads beside each text.
    source: Option<Box<TokenIds>>,
}

impl TokenIds {
    /// One text.
    ///
    /// # Errors
    /// No ids.
    pub fn single(ids: Vec<u32>) -> Result<Self> {
        Self::batched(ids)
    }

    /// A batch.
    ///
    /// # Errors
    /// No ids, texts of different lengths, or sources of different lengths.
    pub fn batched(texts: impl Into<Texts>) -> Result<Self> {
        let texts = texts.into();
        let seq_len = texts.iter().next().map_or(0, <[u32]>::len);
        if seq_len == 0 {
            return Err(Error::NoIds);
        }
        if let Some((i, odd)) = texts.iter().enumerate().find(|(_, ids)| ids.len() != seq_len) {
            return Err(Error::UnevenBatch { first: seq_len, index: i, len: odd.len() });
        }
        let batch = texts.len();
        let (ids, sources) = texts.into_parts();
        let source = sources.map(|sources| Self::batched(sources).map(Box::new)).transpose()?;
        Ok(Self { batch, ids, source })
    }

    /// Checks that all ids are words of a vocabulary.
    ///
    /// # Errors
    /// The first one that is not.
    pub fn check(&self, vocab_size: usize) -> Result<()> {
        check_ids(&self.ids, vocab_size)
    }

    /// The ids on a device: `[batch, seq]`, as u32.
    ///
    /// # Errors
    /// candle's, if the device is out of memory.
    pub fn tensor(&self, device: &Device) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.ids, (self.batch, self.seq_len()), device)?)
    }

    /// What an encoder reads beside each text, where there is one.
    pub fn source(&self) -> Option<&Self> {
        self.source.as_deref()
    }

    /// The ids of each text.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &[u32]> + Clone {
        self.ids.chunks(self.seq_len())
    }

    /// All ids, one text behind the other.
    pub fn as_slice(&self) -> &[u32] {
        &self.ids
    }

    /// How many texts there are.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// How long each text is.
    pub fn seq_len(&self) -> usize {
        self.ids.len() / self.batch
    }
}

/// Checks that ids are all words of a vocabulary.
pub(crate) fn check_ids(ids: &[u32], vocab_size: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= vocab_size) {
        Some(&id) => Err(Error::OutOfVocabulary { id, vocab_size }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches() {
        let ids = TokenIds::batched(vec![vec![2, 5], vec![9, 1]]).unwrap();
        assert_eq!((ids.batch(), ids.seq_len(), ids.as_slice()), (2, 2, &[2, 5, 9, 1][..]));
        assert!(TokenIds::batched(vec![vec![1], vec![1, 2]]).is_err());
        assert!(ids.check(10).is_ok() && ids.check(9).is_err());
    }
}
