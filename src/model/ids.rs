//! What a model reads.

use crate::error::{Error, Result};

/// Token ids of one text or of a batch of equally long ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIds {
    ids: Vec<u32>,
    batch: usize,
}

impl TokenIds {
    /// One text.
    ///
    /// # Errors
    /// No ids.
    pub fn single(ids: Vec<u32>) -> Result<Self> {
        Self::batched(vec![ids])
    }

    /// A batch.
    ///
    /// # Errors
    /// No ids, texts of different lengths.
    pub fn batched(texts: Vec<Vec<u32>>) -> Result<Self> {
        let seq_len = texts.first().map_or(0, Vec::len);
        if seq_len == 0 {
            return Err(Error::Input("there are no token ids; pass at least one".into()));
        }
        if let Some((i, odd)) = texts.iter().enumerate().find(|(_, ids)| ids.len() != seq_len) {
            return Err(Error::Input(format!(
                "the texts of a batch must be equally long: number 0 has {seq_len} ids, number {i} has {}",
                odd.len()
            )));
        }
        Ok(Self { batch: texts.len(), ids: texts.concat() })
    }

    /// Reads a JSON array of ids, or an array of equally long arrays of ids.
    ///
    /// # Errors
    /// Anything else; the sentence says what was found.
    pub fn from_json(json: &str) -> Result<Self> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Ids {
            Single(Vec<u32>),
            Batch(Vec<Vec<u32>>),
        }
        match serde_json::from_str(json) {
            Ok(Ids::Single(ids)) => Self::single(ids),
            Ok(Ids::Batch(texts)) => Self::batched(texts),
            Err(_) => Err(Error::Input(
                "not a JSON array of token ids, nor an array of such arrays, as in [2, 818, 63937]"
                    .into(),
            )),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_one_text_or_a_batch() {
        let ids = TokenIds::from_json("[2, 5, 9]").unwrap();
        assert_eq!((ids.batch(), ids.seq_len()), (1, 3));
        let ids = TokenIds::from_json("[[2, 5], [9, 1]]").unwrap();
        assert_eq!((ids.batch(), ids.seq_len(), ids.as_slice()), (2, 2, &[2, 5, 9, 1][..]));
        for json in ["", "[]", "[[]]", "[[1], [1, 2]]", "[-1]", "[1.5]", "{}", "[4294967296]"] {
            assert!(TokenIds::from_json(json).is_err(), "{json}");
        }
    }
}
