//! Several texts as token ids.

use crate::error::{Error, Result};

/// Texts as token ids, one behind the other: millions of short ones take little more than their ids do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    ids: Vec<u32>,
    /// Where each text ends.
    ends: Vec<u32>,
    /// What an encoder reads beside each of them.
    sources: Option<Box<Texts>>,
}

impl Texts {
    /// Adds a text. Of more than 2^32 tokens in all, those behind belong to no text.
    pub fn push(&mut self, text: &[u32]) {
        self.ids.extend_from_slice(text);
        self.end();
    }

    /// Adds a token to the text that the next [`Self::end`] ends.
    pub(super) fn push_token(&mut self, id: u32) {
        self.ids.push(id);
    }

    /// Ends a text behind all tokens so far.
    pub(super) fn end(&mut self) {
        self.ends.push(u32::try_from(self.ids.len()).unwrap_or(u32::MAX));
    }

    /// These as the texts of a decoder, beside each of which an encoder reads a source.
    ///
    /// # Errors
    /// More or fewer sources than texts, a source without tokens.
    pub fn with_sources(self, sources: Self) -> Result<Self> {
        if sources.len() != self.len() {
            return Err(Error::SourceCount { sources: sources.len(), texts: self.len() });
        }
        if let Some(index) = sources.iter().position(<[u32]>::is_empty) {
            return Err(Error::EmptyText { index });
        }
        Ok(Self { sources: Some(Box::new(sources)), ..self })
    }

    /// What an encoder reads beside each text, if there is one.
    pub fn sources(&self) -> Option<&Self> {
        self.sources.as_deref()
    }

    /// The ids of each text, and what an encoder reads beside it: nothing where there is none.
    pub(crate) fn with_their_sources(&self) -> impl Iterator<Item = (&[u32], &[u32])> + Clone {
        let sources = self.sources.iter().flat_map(|sources| sources.iter());
        self.iter().zip(sources.chain(std::iter::repeat(&[][..])))
    }

    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The ids of each text.
    pub fn iter(&self) -> impl Iterator<Item = &[u32]> + Clone {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.ids[start as usize..end as usize])
    }

    /// All ids, one text behind the other, and the sources.
    pub(super) fn into_parts(self) -> (Vec<u32>, Option<Self>) {
        (self.ids, self.sources.map(|sources| *sources))
    }
}

impl<T: AsRef<[u32]>> FromIterator<T> for Texts {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Self {
        let mut all = Self::default();
        texts.into_iter().for_each(|text| all.push(text.as_ref()));
        all
    }
}

impl From<Vec<Vec<u32>>> for Texts {
    fn from(texts: Vec<Vec<u32>>) -> Self {
        texts.into_iter().collect()
    }
}

impl From<Vec<u32>> for Texts {
    fn from(text: Vec<u32>) -> Self {
        let ends = vec![u32::try_from(text.len()).unwrap_or(u32::MAX)];
        Self { ends, ids: text, sources: None }
    }
}
