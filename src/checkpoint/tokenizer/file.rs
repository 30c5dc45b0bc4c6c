//! `tokenizer.json`: its bytes, and what it holds, before the crate `tokenizers` reads it.

use super::guard::one_line;
use crate::checkpoint::json::{check_regular, is_lfs_pointer};
use crate::error::{Error, Result};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// Gemma 3's have 33 MB.
const MAX_BYTES: u64 = 256 << 20;
/// Of one token; Gemma's longest has 93.
const MAX_TOKEN: usize = 4096;
/// Of the post-processor's JSON; Gemma's has 800.
const MAX_POST_PROCESSOR: usize = 16 << 10;
/// How many times as long a text may become on the way.
const MAX_GROWTH: usize = 256;

/// The bytes of a `tokenizer.json` on disk.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => missing(path),
        _ => Error::io(path)(e),
    })?;
    check_regular(path, &metadata)?;
    let mut bytes = vec![];
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    Ok(bytes)
}

fn missing(path: &Path) -> Error {
    let remedy = if path.with_file_name("tokenizer.model").exists() {
        "only tokenizer.model (SentencePiece) is there: load it with transformers' AutoTokenizer and \
         write tokenizer.json with save_pretrained, or pass token ids"
    } else {
        "it is needed to read text; copy it beside config.json or pass token ids"
    };
    Error::MissingFile { path: path.into(), remedy: remedy.into() }
}

/// The JSON of a file's bytes: without a byte order mark, and nothing that is known to be no JSON.
fn json(bytes: &[u8]) -> Result<&[u8], String> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("more than {} MiB are too many for a tokenizer", MAX_BYTES >> 20));
    }
    if is_lfs_pointer(bytes) {
        return Err(
            "a pointer of Git LFS, not the tokenizer itself; run git lfs pull where it was \
                    cloned, or download the file"
                .into(),
        );
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err("UTF-16; save it as UTF-8".into());
    }
    Ok(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes))
}

/// An object whose values stand as they are in the file.
type Object<'a> = BTreeMap<String, &'a RawValue>;

/// The parts of a `tokenizer.json`, all of it valid JSON.
pub(super) struct Parts<'a> {
    json: &'a [u8],
    file: Object<'a>,
    model: Object<'a>,
    pub(super) vocabulary: Vocabulary,
    /// The tokens beside the model's.
    pub(super) added_tokens: Vec<AddedToken>,
}

/// A token that is looked for in a text before anything else happens to it.
#[derive(Deserialize)]
#[serde(default)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    pub(super) single_word: bool,
    pub(super) lstrip: bool,
    pub(super) rstrip: bool,
    pub(super) normalized: bool,
}

impl Default for AddedToken {
    fn default() -> Self {
        let content = String::new();
        let (single_word, lstrip, rstrip) = (false, false, false);
        Self { id: 0, content, single_word, lstrip, rstrip, normalized: true }
    }
}

impl<'a> Parts<'a> {
    /// Parses all of a file, and refuses what would make a short text take all memory.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let json = json(bytes)?;
        let malformed = |e: serde_json::Error| {
            format!("malformed JSON: {}; download or export it again", one_line(&e.to_string()))
        };
        let file: Object = serde_json::from_slice(json).map_err(malformed)?;
        let Some(model) = file.get("model") else {
            return Err("no \"model\"; is this the tokenizer.json of a checkpoint?".into());
        };
        let model: Object = serde_json::from_str(model.get()).map_err(malformed)?;
        let vocabulary = field(&model, "vocab")?.unwrap_or_default();
        let added_tokens = field(&file, "added_tokens")?.unwrap_or_default();
        let parts = Self { json, file, model, vocabulary, added_tokens };
        parts.check()?;
        Ok(parts)
    }

    /// A part, unless it is absent or null.
    pub(super) fn get<T: Deserialize<'a>>(&self, name: &str) -> Result<Option<T>, String> {
        field(&self.file, name)
    }

    /// A field of the model, likewise.
    pub(super) fn model<T: Deserialize<'a>>(&self, name: &str) -> Result<Option<T>, String> {
        field(&self.model, name)
    }

    fn check(&self) -> Result<(), String> {
        let longest = self.vocabulary.longest;
        if longest > MAX_TOKEN {
            return Err(format!("a token of {longest} bytes; at most {MAX_TOKEN} are read"));
        }
        for name in ["unk_token", "continuing_subword_prefix", "end_of_word_suffix"] {
            let length = self.model::<String>(name)?.map_or(0, |token| token.len());
            if length > MAX_TOKEN {
                return Err(format!("{name} has {length} bytes; at most {MAX_TOKEN} are read"));
            }
        }
        let length = self.file.get("post_processor").map_or(0, |part| part.get().len());
        if length > MAX_POST_PROCESSOR {
            return Err(format!(
                "a post_processor of {length} bytes; at most {MAX_POST_PROCESSOR} are read"
            ));
        }
        for name in ["normalizer", "pre_tokenizer", "decoder"] {
            let part = self.get::<Value>(name)?;
            if part.is_some_and(|part| growth(&part) > MAX_GROWTH) {
                return Err(format!(
                    "its {name} could make a text more than {MAX_GROWTH} times as long"
                ));
            }
        }
        Ok(())
    }

    /// What the crate is to read: without padding, truncation and dropped merges, none of which belong
    /// to a text's ids, and, if only to decode, without merges.
    pub(super) fn to_read(&self, with_merges: bool) -> serde_json::Result<Cow<'a, [u8]>> {
        let none = to_raw_value::<[(); 0]>(&[])?;
        let mut model = self.model.clone();
        let mut changed = replace(&mut model, "dropout", RawValue::NULL);
        if !with_merges {
            changed |= replace(&mut model, "merges", &none);
        }
        let mut file = self.file.clone();
        changed |= replace(&mut file, "padding", RawValue::NULL);
        changed |= replace(&mut file, "truncation", RawValue::NULL);
        if !changed {
            return Ok(Cow::Borrowed(self.json));
        }
        let model = to_raw_value(&model)?;
        file.insert("model".into(), &model);
        serde_json::to_vec(&file).map(Cow::Owned)
    }
}

/// Replaces a value that is there; whether it was another one.
fn replace<'a>(object: &mut Object<'a>, name: &str, by: &'a RawValue) -> bool {
    match object.get_mut(name) {
        Some(value) if value.get() != by.get() => {
            *value = by;
            true
        }
        _ => false,
    }
}

fn field<'a, T: Deserialize<'a>>(object: &Object<'a>, name: &str) -> Result<Option<T>, String> {
    let Some(value) = object.get(name) else { return Ok(None) };
    serde_json::from_str(value.get()).map_err(|e| format!("{name}: {}", one_line(&e.to_string())))
}

/// How many characters may come of one: by the texts that replacements put in, one after the other.
fn growth(part: &Value) -> usize {
    match part {
        Value::Array(parts) => parts.iter().map(growth).fold(1, usize::saturating_mul),
        Value::Object(fields) => {
            let text = |name| fields.get(name).and_then(Value::as_str);
            let inserted = ["content", "prepend"].map(|name| text(name).map_or(1, chars));
            // It writes a character for each byte.
            let bytes = if text("type") == Some("ByteLevel") { 2 } else { 1 };
            let inner = fields.values().map(growth).fold(bytes, usize::saturating_mul);
            inserted.into_iter().fold(inner, usize::saturating_mul)
        }
        _ => 1,
    }
}

fn chars(text: &str) -> usize {
    text.chars().count().max(1)
}

/// What is to be known of a model's vocabulary.
#[derive(Default)]
pub(super) struct Vocabulary {
    /// In ascending order.
    pub(super) ids: Vec<u32>,
    /// The tokens of one character.
    pub(super) characters: HashSet<char>,
    /// The bytes of the longest token.
    longest: usize,
}

impl Vocabulary {
    fn add(&mut self, token: &str, id: u32) {
        let mut characters = token.chars();
        if let (Some(only), None) = (characters.next(), characters.next()) {
            self.characters.insert(only);
        }
        self.longest = self.longest.max(token.len());
        self.ids.push(id);
    }
}

/// Of `{token: id}`, or Unigram's `[[token, score]]`.
impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(vocabulary: D) -> Result<Self, D::Error> {
        struct Tokens;
        impl<'de> Visitor<'de> for Tokens {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut vocabulary = Vocabulary::default();
                while let Some((token, id)) = map.next_entry::<String, _>()? {
                    vocabulary.add(&token, id);
                }
                vocabulary.ids.sort_unstable();
                Ok(vocabulary)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vocabulary, A::Error> {
                let mut vocabulary = Vocabulary::default();
                while let Some((token, IgnoredAny)) = seq.next_element::<(String, _)>()? {
                    vocabulary.add(&token, vocabulary.ids.len() as u32);
                }
                Ok(vocabulary)
            }
        }
        vocabulary.deserialize_any(Tokens)
    }
}
