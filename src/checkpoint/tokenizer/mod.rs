//! Text to token ids and back, by the checkpoint's own tokenizer.

mod cut;
mod file;
pub mod guard;
mod settings;
mod specials;
#[cfg(test)]
mod tests;

use super::config::Config;
use super::remark::{Remark, RemarkKind};
use crate::error::{Error, Result};
use cut::Cut;
use file::Parts;
use guard::{guard, one_line};
pub(super) use settings::SETTINGS;
use settings::Settings;
use specials::{Specials, Vocab};
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The file that it is in.
pub(super) const TOKENIZER: &str = "tokenizer.json";

/// The tokenizer of a checkpoint. It is read when a text first is, since ids can be passed without
/// one.
pub(super) struct Tokenizer {
    path: PathBuf,
    origin: Origin,
    vocab: Vocab,
    outline: Read<Outline>,
    whole: Read<Whole>,
    /// The tokenizer without its merges, which is all that decoding takes and read in a third of the time.
    words: Read<tokenizers::Tokenizer>,
}

/// Where the bytes of its `tokenizer.json` come from.
enum Origin {
    File,
    Bytes(Cow<'static, [u8]>),
    /// They are made of something else, each time they are asked for.
    Made(Make),
}

/// Makes the bytes of a `tokenizer.json`.
pub(super) type Make = Box<dyn Fn() -> Result<Vec<u8>> + Send + Sync>;

/// What was read, or why it was not. A second thread waits for the one that reads.
type Read<T> = OnceLock<Result<T, String>>;

/// What a tokenizer says without its vocabulary being looked at.
struct Outline {
    specials: Specials,
    /// BOS, as messages call it.
    bos: String,
    remarks: Vec<Remark>,
}

/// What encodes.
struct Whole {
    tokenizer: tokenizers::Tokenizer,
    cut: Cut,
    /// About tokens that have other ids than the file says.
    remarks: Vec<Remark>,
}

impl Tokenizer {
    pub(super) fn file(path: PathBuf, config: &Config) -> Self {
        Self::new(path, Origin::File, config)
    }

    pub(super) fn bytes(bytes: impl Into<Cow<'static, [u8]>>, config: &Config) -> Self {
        Self::new("tokenizer.json".into(), Origin::Bytes(bytes.into()), config)
    }

    /// One that is made of another file, which messages name.
    pub(super) fn made(path: PathBuf, make: Make, config: &Config) -> Self {
        Self::new(path, Origin::Made(make), config)
    }

    fn new(path: PathBuf, origin: Origin, config: &Config) -> Self {
        let vocab = Vocab { bos: config.bos_token_id, rows: config.decoder().vocab_size };
        let (outline, whole, words) = (Read::new(), Read::new(), Read::new());
        Self { path, origin, vocab, outline, whole, words }
    }

    /// Token ids with the special tokens around them, and what is odd about the text.
    pub(super) fn encode(&self, text: &str) -> Result<(Vec<u32>, Vec<Remark>)> {
        if text.is_empty() {
            return Err(Error::Input(
                "the prompt is empty; pass a text of at least one character".into(),
            ));
        }
        let whole = self.whole()?;
        let Outline { specials, bos, .. } = self.outline()?;
        let mut remarks = whole.remarks.clone();
        let mut ids = specials.before.clone();
        let begins = ids.len();
        for piece in whole.cut.pieces(text) {
            let encoding = guard(|| whole.tokenizer.encode_fast(piece, false));
            ids.extend(encoding.map_err(|reason| self.failed(&reason))?.get_ids());
        }
        let bos_id = Some(&self.vocab.bos);
        if ids[..begins].last() == bos_id && ids.get(begins) == bos_id {
            ids.remove(begins);
            let text = format!(
                "a text begins with {bos} itself, so the one that the tokenizer adds is left out"
            );
            remarks.push(Remark::note(RemarkKind::Text, text));
        }
        ids.extend(&specials.after);
        if ids.is_empty() {
            return Err(Error::Input("the prompt has no tokens".into()));
        }
        Ok((ids, remarks))
    }

    /// The text of token ids, without special tokens.
    pub(super) fn decode(&self, ids: &[u32]) -> Result<String> {
        let words = self.words()?;
        guard(|| words.decode(ids, true)).map_err(|reason| self.failed(&reason))
    }

    /// The text of one token, special ones included.
    pub(super) fn token_text(&self, id: u32) -> Result<String> {
        let words = self.words()?;
        guard(|| words.decode(&[id], false)).map_err(|reason| self.failed(&reason))
    }

    /// What is not used, contradicts itself, or is odd. Neither vocabulary nor merges are built.
    pub(super) fn remarks(&self) -> Result<&[Remark]> {
        Ok(&self.outline()?.remarks)
    }

    /// Whether texts begin with BOS.
    pub(super) fn adds_bos(&self) -> Result<bool> {
        Ok(self.outline()?.specials.before.first() == Some(&self.vocab.bos))
    }

    fn outline(&self) -> Result<&Outline> {
        self.get(&self.outline, |parts| self.read_outline(parts))
    }

    fn whole(&self) -> Result<&Whole> {
        self.get(&self.whole, |parts| {
            // From the same bytes, so that the file is read once.
            self.outline.get_or_init(|| self.read_outline(parts)).as_ref().map_err(Clone::clone)?;
            let cut = Cut::of(parts)?;
            let tokenizer = build(parts, true)?;
            let remarks = other_ids(parts, &tokenizer).into_iter().collect();
            Ok(Whole { tokenizer, cut, remarks })
        })
    }

    fn words(&self) -> Result<&tokenizers::Tokenizer> {
        match self.whole.get() {
            Some(Ok(whole)) => Ok(&whole.tokenizer),
            _ => self.get(&self.words, |parts| build(parts, false)),
        }
    }

    fn read_outline(&self, parts: &Parts) -> Result<Outline, String> {
        let mut remarks = vec![];
        let settings = match self.origin {
            Origin::File => Settings::beside(&self.path, &mut remarks),
            Origin::Bytes(_) | Origin::Made(_) => Settings::default(),
        };
        let token = parts.added_tokens.iter().find(|token| token.id == self.vocab.bos);
        let bos = token.map_or("BOS".into(), |token| one_line(&token.content));
        let mut specials = Specials::of(parts)?;
        remarks.extend(specials.settle_bos(&settings, self.vocab.bos, &bos));
        remarks.extend(specials::remarks(parts, &specials, &settings, self.vocab)?);
        Ok(Outline { specials, bos, remarks })
    }

    fn get<'a, T>(
        &self,
        kept: &'a Read<T>,
        read: impl FnOnce(&Parts) -> Result<T, String>,
    ) -> Result<&'a T> {
        let bytes = match kept.get() {
            Some(_) => Cow::Borrowed(&[][..]),
            None => self.json()?,
        };
        let read = kept.get_or_init(|| read(&Parts::parse(&bytes)?));
        read.as_ref().map_err(|reason| self.failed(reason))
    }

    /// The bytes of its `tokenizer.json`.
    pub(super) fn json(&self) -> Result<Cow<'_, [u8]>> {
        match &self.origin {
            Origin::File => file::read(&self.path).map(Cow::Owned),
            Origin::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
            Origin::Made(make) => make().map(Cow::Owned),
        }
    }

    fn failed(&self, reason: &str) -> Error {
        Error::Tokenizer { path: self.path.clone(), reason: reason.into() }
    }
}

fn build(parts: &Parts, with_merges: bool) -> Result<tokenizers::Tokenizer, String> {
    guard(|| tokenizers::Tokenizer::from_bytes(parts.to_read(with_merges)?))
}

/// The crate gives an added token the id that its text has in the vocabulary, or the next free one.
fn other_ids(parts: &Parts, tokenizer: &tokenizers::Tokenizer) -> Option<Remark> {
    let mut others = parts.added_tokens.iter().filter_map(|token| {
        let read = tokenizer.token_to_id(&token.content)?;
        (read != token.id).then_some((token, read))
    });
    let (token, read) = others.next()?;
    let (name, id, more) = (one_line(&token.content), token.id, others.count());
    let more = if more > 0 { format!(", and {more} more likewise") } else { String::new() };
    let text = format!("tokenizer.json gives {name} the id {id}, but it is read as {read}{more}");
    Some(Remark::warning(RemarkKind::Chosen, text))
}
