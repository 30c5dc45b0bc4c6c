//! Where a text may be cut so that its pieces have the ids of the whole: the crate keeps over a
//! hundred bytes for each byte of a text that it works on.
//!
//! Two kinds of tokenizers are understood.
//!
//! **Characters** (Gemma's): byte-pair merges over the whole text. A merge joins two neighbours of which
//! the left one's last character and the right one's first are joined in the list of merges. Where the
//! two characters around a place are joined by no merge and by no added token, nothing ever crosses it,
//! and the merges on either side, which are taken in the order of their ranks, do not depend on those
//! on the other.
//!
//! **Words** (GPT-2's byte level): a regular expression cuts the text into words first, none of which
//! goes on with whitespace behind anything else.
//!
//! Texts of all others stay whole.

use super::file::{AddedToken, Parts};
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::Value;
use std::collections::HashSet;
use std::fmt;

/// Bytes after which a place to cut is looked for.
const PIECE: usize = 16 << 10;

/// The places between two characters where nothing joins them.
pub(super) enum Cut {
    Never,
    Words {
        joined: Pairs,
    },
    Characters {
        /// What the normalizer makes of a character, if of any.
        replaced: Option<(char, char)>,
        /// The characters that are tokens. The others are written in bytes or unknown tokens.
        known: HashSet<char>,
        /// Neighbours in a text.
        joined: Pairs,
        /// Neighbours in a text that is normalized.
        merged: Pairs,
    },
}

type Pairs = HashSet<(char, char)>;

impl Cut {
    pub(super) fn of(parts: &Parts) -> Result<Self, String> {
        // These look farther than at their own characters.
        let looks_around = |t: &AddedToken| t.single_word || t.lstrip || t.rstrip;
        if parts.added_tokens.iter().any(looks_around) {
            return Ok(Self::Never);
        }
        let normalizer: Option<Value> = parts.get("normalizer")?;
        let pre_tokenizer: Option<Value> = parts.get("pre_tokenizer")?;
        let joined = |tokens: &mut dyn Iterator<Item = &AddedToken>| -> Pairs {
            tokens.flat_map(|token| neighbours(&token.content)).collect()
        };
        if normalizer.is_none() && pre_tokenizer.as_ref().is_some_and(is_gpt2) {
            return Ok(Self::Words { joined: joined(&mut parts.added_tokens.iter()) });
        }
        let replaced = match &normalizer {
            None => None,
            Some(normalizer) => match replacement(normalizer) {
                None => return Ok(Self::Never),
                replaced => replaced,
            },
        };
        if pre_tokenizer.is_some_and(|p| !splits_at_replaced(&p, replaced)) {
            return Ok(Self::Never);
        }
        let plain = parts.model::<String>("type")?.as_deref() == Some("BPE")
            && !parts.model::<bool>("ignore_merges")?.unwrap_or_default()
            && parts.model::<String>("continuing_subword_prefix")?.is_none()
            && parts.model::<String>("end_of_word_suffix")?.is_none();
        // Tokens that share an id are one to the merges, whatever their characters.
        let unique = parts.vocabulary.ids.windows(2).all(|pair| pair[0] != pair[1]);
        let merges: Option<Merges> = parts.model("merges")?;
        let Some(Merges(Some(mut merged))) = merges.filter(|_| plain && unique) else {
            return Ok(Self::Never);
        };
        let of = |normalized| parts.added_tokens.iter().filter(move |t| t.normalized == normalized);
        for (a, b) in joined(&mut of(true)) {
            merged.insert((replace(a, replaced), replace(b, replaced)));
        }
        Ok(Self::Characters {
            replaced,
            known: parts.vocabulary.characters.clone(),
            joined: joined(&mut of(false)),
            merged,
        })
    }

    fn is_between(&self, a: char, b: char) -> bool {
        match self {
            Self::Never => false,
            Self::Words { joined } => {
                !a.is_whitespace() && [' ', '\n'].contains(&b) && !joined.contains(&(a, b))
            }
            Self::Characters { replaced, known, joined, merged } => {
                let (left, right) = (replace(a, *replaced), replace(b, *replaced));
                known.contains(&left)
                    && known.contains(&right)
                    && !merged.contains(&(left, right))
                    && !joined.contains(&(a, b))
            }
        }
    }

    /// The pieces of a text, one behind the other.
    pub(super) fn pieces<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        self.pieces_of(text, PIECE)
    }

    /// Pieces of so many bytes at least.
    pub(super) fn pieces_of<'a>(
        &'a self,
        mut text: &'a str,
        size: usize,
    ) -> impl Iterator<Item = &'a str> {
        std::iter::from_fn(move || {
            let (piece, rest) = text.split_at(self.first(text, size));
            text = rest;
            (!piece.is_empty()).then_some(piece)
        })
    }

    /// The first place to cut at behind so many bytes, or the end.
    fn first(&self, text: &str, size: usize) -> usize {
        if matches!(self, Self::Never) || text.len() <= size {
            return text.len();
        }
        let from = (0..=size).rev().find(|&at| text.is_char_boundary(at)).unwrap_or_default();
        let behind = text[from..].char_indices().zip(text[from..].chars().skip(1));
        let mut places = behind.filter(|&((_, a), b)| self.is_between(a, b));
        places.next().map_or(text.len(), |((at, a), _)| from + at + a.len_utf8())
    }
}

fn neighbours(text: &str) -> impl Iterator<Item = (char, char)> {
    text.chars().zip(text.chars().skip(1))
}

fn replace(c: char, replaced: Option<(char, char)>) -> char {
    match replaced {
        Some((from, to)) if c == from => to,
        _ => c,
    }
}

fn only_char(text: &Value) -> Option<char> {
    let mut chars = text.as_str()?.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// The character that a normalizer replaces by another, if that is all it does.
fn replacement(normalizer: &Value) -> Option<(char, char)> {
    let from = only_char(&normalizer["pattern"]["String"])?;
    let to = only_char(&normalizer["content"])?;
    (normalizer["type"] == "Replace" && from != to).then_some((from, to))
}

/// Whether a pre-tokenizer splits only at a character that the normalizer has left none of.
fn splits_at_replaced(pre_tokenizer: &Value, replaced: Option<(char, char)>) -> bool {
    let at = only_char(&pre_tokenizer["pattern"]["String"]);
    pre_tokenizer["type"] == "Split"
        && pre_tokenizer["invert"] == false
        && at.is_some()
        && at == replaced.map(|(from, _)| from)
}

fn is_gpt2(pre_tokenizer: &Value) -> bool {
    pre_tokenizer["type"] == "ByteLevel"
        && pre_tokenizer["add_prefix_space"] == false
        && pre_tokenizer.get("use_regex").is_none_or(|regex| regex == true)
}

/// The characters that merges join; `None` if one joins nothing to something.
struct Merges(Option<Pairs>);

/// Of `[["a", "b"]]` or `["a b"]`.
impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(merges: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Merge {
            Pair(String, String),
            Text(String),
        }
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut merges: A) -> Result<Merges, A::Error> {
                let mut pairs = Some(Pairs::new());
                while let Some(merge) = merges.next_element()? {
                    let (left, right) = match &merge {
                        Merge::Pair(left, right) => (&left[..], &right[..]),
                        Merge::Text(text) => text.split_once(' ').unwrap_or_default(),
                    };
                    match (left.chars().last(), right.chars().next(), &mut pairs) {
                        (Some(a), Some(b), Some(pairs)) => drop(pairs.insert((a, b))),
                        _ => pairs = None,
                    }
                }
                Ok(Merges(pairs))
            }
        }
        merges.deserialize_seq(List)
    }
}
