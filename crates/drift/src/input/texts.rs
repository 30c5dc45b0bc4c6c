//! Several texts as token ids.

/// Texts as token ids, one behind the other: millions of short ones take little more than their ids do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    ids: Vec<u32>,
    /// Where each text ends.
    ends: Vec<u32>,
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

    /// All ids, one text behind the other.
    pub(super) fn into_ids(self) -> Vec<u32> {
        self.ids
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
        Self { ends: vec![u32::try_from(text.len()).unwrap_or(u32::MAX)], ids: text }
    }
}
