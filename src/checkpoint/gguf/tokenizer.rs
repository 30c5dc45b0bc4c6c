//! The tokenizer in a GGUF file's metadata, as a `tokenizer.json`.
//!
//! Up to Gemma 3n files have SentencePiece's tokens with scores (`tokenizer.ggml.model` "llama"), and since Gemma 4 tokens
//! with merges ("gemma4"). Gemma's `tokenizer.json` was made of the former by transformers (`generate_merges`), whose rule
//! this follows: every token that two others make up is a merge of them, and merges are taken by their tokens' scores. All
//! else of the file is the same in every Gemma: spaces are `▁`, nothing splits a text, what is no token is written in bytes.
//!
//! What a file does not say: which tokens of Gemma 4 are looked for in a text as they are. Taken are those that no merge
//! makes. A run of `▁`, which a text hardly has, may be cut otherwise. And of which tokens decoding leaves out those that no
//! text has (`<unused0>`), which the converter calls control tokens.

use super::metadata::{Metadata, Number};
use crate::checkpoint::config::limits::MAX_VOCAB;
use crate::error::Result;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::HashMap;

const MODEL: &str = "tokenizer.ggml.model";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// Of one token, in bytes; Gemma's longest has 93.
const LONGEST_TOKEN: usize = 512;
/// Merges; Gemma's tokenizers have half a million.
const MAX_MERGES: u64 = 1 << 23;
/// Of all merges' tokens together, in bytes; Gemma's have 5 MB. Tokens that are each others' parts make far more merges
/// than a file has bytes.
const MAX_MERGED: usize = 128 << 20;

/// What a token is, by the format's numbers.
const NORMAL: i128 = 1;
const UNKNOWN: i128 = 2;
const CONTROL: i128 = 3;
const USER_DEFINED: i128 = 4;

/// Whether there is a tokenizer.
pub(super) fn is_there(metadata: &Metadata) -> bool {
    metadata.len(TOKENS).is_some()
}

/// Its `tokenizer.json`.
///
/// # Errors
/// A tokenizer of another kind, or one that contradicts itself.
pub(super) fn json(metadata: &Metadata) -> Result<Vec<u8>> {
    let (tokens, mut kinds) = tokens(metadata)?;
    let vocabulary = Vocabulary::new(&tokens, metadata)?;
    let merges = match metadata.text(MODEL)?.as_deref() {
        Some("llama") => {
            let scores = scores(metadata, &kinds)?;
            merges_of(&tokens, &vocabulary, &scores).ok_or_else(|| {
                metadata.invalid(TOKENS, "has tokens that make up one another in too many ways")
            })?
        }
        Some("gemma4") => {
            let merges = merges(metadata, &tokens, &vocabulary)?;
            mark_unmade(&tokens, &vocabulary, &merges, &mut kinds);
            merges
        }
        other => {
            let reason = format!(
                "is {other:?}, which is no Gemma's tokenizer; put the model's tokenizer.json beside the file, or pass token \
                 ids"
            );
            return Err(metadata.invalid(MODEL, &reason));
        }
    };
    let merges: Vec<[&str; 2]> =
        merges.iter().map(|pair| pair.map(|id| &*tokens[id as usize])).collect();
    let unknown = special(metadata, "unknown", &tokens)?.unwrap_or("<unk>".into());
    let file = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(&tokens, &kinds),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": {
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false
        },
        "post_processor": post_processor(metadata, &tokens)?,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ]},
    });
    let model = Model {
        r#type: "BPE",
        dropout: None,
        unk_token: &unknown,
        continuing_subword_prefix: None,
        end_of_word_suffix: None,
        fuse_unk: true,
        byte_fallback: true,
        ignore_merges: false,
        vocab: ById(&tokens),
        merges: &merges,
    };
    write(&file, &model).map_err(|e| metadata.invalid(TOKENS, &e.to_string()))
}

/// The file with the model last, which is too large for a value of its own.
fn write(file: &Value, model: &Model) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(file)?;
    bytes.pop();
    bytes.extend(br#","model":"#);
    serde_json::to_writer(&mut bytes, model)?;
    bytes.push(b'}');
    Ok(bytes)
}

#[derive(serde::Serialize)]
struct Model<'a> {
    r#type: &'static str,
    dropout: Option<f32>,
    unk_token: &'a str,
    continuing_subword_prefix: Option<&'static str>,
    end_of_word_suffix: Option<&'static str>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: ById<'a>,
    merges: &'a [[&'a str; 2]],
}

/// `{token: id}`
struct ById<'a>(&'a [String]);

impl Serialize for ById<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (id, token) in self.0.iter().enumerate() {
            map.serialize_entry(token, &id)?;
        }
        map.end()
    }
}

/// Ids by their tokens.
struct Vocabulary<'a>(HashMap<&'a str, u32>);

impl<'a> Vocabulary<'a> {
    fn new(tokens: &'a [String], metadata: &Metadata) -> Result<Self> {
        let mut ids = HashMap::with_capacity(tokens.len());
        for (id, token) in tokens.iter().enumerate() {
            if let Some(other) = ids.insert(token.as_str(), id as u32) {
                let reason = format!("has one token twice, with the ids {other} and {id}");
                return Err(metadata.invalid(TOKENS, &reason));
            }
        }
        Ok(Self(ids))
    }

    fn get(&self, token: &str) -> Option<u32> {
        self.0.get(token).copied()
    }
}

/// The tokens, and what each is. The converter writes spaces where the tokens of a `tokenizer.json` have `▁`.
fn tokens(metadata: &Metadata) -> Result<(Vec<String>, Vec<i128>)> {
    let count = metadata.len(TOKENS).ok_or_else(|| metadata.missing(TOKENS))?;
    if count == 0 || count > MAX_VOCAB as u64 {
        return Err(
            metadata.invalid(TOKENS, &format!("has {count} tokens; 1 to {MAX_VOCAB} are read"))
        );
    }
    let mut kinds = vec![];
    if let Some(len) = metadata.len(TYPES) {
        if len != count {
            return Err(metadata.invalid(TYPES, &format!("has {len} types for {count} tokens")));
        }
        metadata.each_number(TYPES, |_, kind| {
            kinds.push(if let Number::Whole(kind) = kind { kind } else { 0 });
            Ok(())
        })?;
    }
    kinds.resize(count as usize, NORMAL);
    let mut tokens = vec![];
    metadata.each_text(TOKENS, LONGEST_TOKEN, |id, token| {
        tokens.push(match kinds[id] {
            USER_DEFINED => token.replace(' ', "▁"),
            _ => token.to_string(),
        });
        Ok(())
    })?;
    // Gemma 1 and 2 have the tab as a byte alone, which merges do not see; so does transformers.
    let place = |wanted: &str| tokens.iter().position(|token| token == wanted);
    if let (None, Some(byte)) = (place("\t"), place("<0x09>")) {
        tokens[byte] = "\t".into();
    }
    Ok((tokens, kinds))
}

/// SentencePiece's scores. Those of tokens that a user defines are 0, which is higher than any other; the converter
/// overwrites them.
fn scores(metadata: &Metadata, kinds: &[i128]) -> Result<Vec<f64>> {
    let mut scores = vec![];
    metadata.each_number(SCORES, |id, score| {
        let score = match score {
            Number::Float(score) if !score.is_nan() => score,
            other => {
                return Err(metadata.invalid(SCORES, &format!("has {other}, which is no score")));
            }
        };
        scores.push(if kinds.get(id) == Some(&USER_DEFINED) { 0.0 } else { score });
        Ok(())
    })?;
    match scores.len() == kinds.len() {
        true => Ok(scores),
        false => {
            let reason = format!("has {} scores for {} tokens", scores.len(), kinds.len());
            Err(metadata.invalid(SCORES, &reason))
        }
    }
}

/// Every way in which two tokens make up another, in the order of its score; where scores are equal, longer parts come
/// first. `None` if there are too many.
fn merges_of(tokens: &[String], vocabulary: &Vocabulary, scores: &[f64]) -> Option<Vec<[u32; 2]>> {
    struct Merge {
        score: f64,
        /// Characters of the left part and of the right one.
        lengths: [usize; 2],
        parts: [u32; 2],
    }
    let (mut merges, mut merged) = (vec![], 0);
    for (token, &score) in tokens.iter().zip(scores) {
        let length = token.chars().count();
        let from = merges.len();
        for (left, (at, _)) in token.char_indices().enumerate().skip(1) {
            let (before, behind) = token.split_at(at);
            if let (Some(before), Some(behind)) = (vocabulary.get(before), vocabulary.get(behind)) {
                merges.push(Merge {
                    score,
                    lengths: [left, length - left],
                    parts: [before, behind],
                });
            }
        }
        merged += (merges.len() - from) * token.len();
        if merged > MAX_MERGED {
            return None;
        }
        merges[from..].sort_by_key(|merge| merge.parts);
    }
    // Of 0 and -0, both of which there are, neither is higher.
    let higher = |a: &Merge, b: &Merge| b.score.partial_cmp(&a.score).unwrap_or(Ordering::Equal);
    merges.sort_by(|a, b| higher(a, b).then_with(|| b.lengths.cmp(&a.lengths)));
    Some(merges.into_iter().map(|merge| merge.parts).collect())
}

/// The merges that a file lists, each as two tokens with a space between them.
fn merges(
    metadata: &Metadata,
    tokens: &[String],
    vocabulary: &Vocabulary,
) -> Result<Vec<[u32; 2]>> {
    let count = metadata.len(MERGES).ok_or_else(|| metadata.missing(MERGES))?;
    if count > MAX_MERGES {
        return Err(
            metadata.invalid(MERGES, &format!("has {count} merges; at most {MAX_MERGES} are read"))
        );
    }
    let mut merges = vec![];
    metadata.each_text(MERGES, 2 * LONGEST_TOKEN + 1, |i, merge| {
        // A token may hold a space itself: the place is the one with tokens around it.
        let parts = merge.match_indices(' ').find_map(|(at, _)| {
            Some([vocabulary.get(&merge[..at])?, vocabulary.get(&merge[at + 1..])?])
        });
        let merged = parts.filter(|parts| {
            let [left, right] = parts.map(|id| &*tokens[id as usize]);
            vocabulary.get(&[left, right].concat()).is_some()
        });
        merges.push(merged.ok_or_else(|| {
            metadata.invalid(MERGES, &format!("has an item {i} that makes no token of two others"))
        })?);
        Ok(())
    })?;
    Ok(merges)
}

/// Marks tokens that no merge makes as defined by a user: the converter of Gemma 4 writes no such type, and a text could
/// have them in no other way. (Of Gemma 3's `tokenizer.json`, which says it of each, that is true of all 6322 of them.)
fn mark_unmade(
    tokens: &[String],
    vocabulary: &Vocabulary,
    merges: &[[u32; 2]],
    kinds: &mut [i128],
) {
    let mut made = vec![false; tokens.len()];
    for [left, right] in merges.iter().map(|pair| pair.map(|id| &*tokens[id as usize])) {
        if let Some(id) = vocabulary.get(&[left, right].concat()) {
            made[id as usize] = true;
        }
    }
    for ((token, kind), made) in tokens.iter().zip(kinds).zip(made) {
        if *kind == NORMAL && !made && token.chars().nth(1).is_some() && !is_byte(token) {
            *kind = USER_DEFINED;
        }
    }
}

/// Whether a token stands for a byte: `<0x0A>`.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// Tokens that are looked for in a text as they are.
fn added_tokens(tokens: &[String], kinds: &[i128]) -> Vec<Value> {
    let added = tokens.iter().zip(kinds).enumerate();
    let added = added.filter(|(_, (_, kind))| [UNKNOWN, CONTROL, USER_DEFINED].contains(kind));
    added
        .map(|(id, (token, &kind))| {
            json!({
                "id": id, "content": token, "special": kind != USER_DEFINED, "normalized": false,
                "single_word": false, "lstrip": false, "rstrip": false,
            })
        })
        .collect()
}

/// What stands around every text: BOS unless the metadata says otherwise, and EOS where it says so.
fn post_processor(metadata: &Metadata, tokens: &[String]) -> Result<Value> {
    let asked = |name: &str| metadata.flag(&format!("tokenizer.ggml.add_{name}_token"));
    let mut single = vec![json!({"Sequence": {"id": "A", "type_id": 0}})];
    let mut specials = serde_json::Map::new();
    for (name, asked, first) in [
        ("bos", asked("bos")?.unwrap_or(true), true),
        ("eos", asked("eos")?.unwrap_or(false), false),
    ] {
        let Some(token) = special(metadata, name, tokens)?.filter(|_| asked) else { continue };
        let id = metadata.whole(&format!("tokenizer.ggml.{name}_token_id"))?;
        let part = json!({"SpecialToken": {"id": token, "type_id": 0}});
        specials.insert(token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
        single.insert(if first { 0 } else { single.len() }, part);
    }
    let pair = [&single[..], &[json!({"Sequence": {"id": "B", "type_id": 1}})]].concat();
    Ok(
        json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials}),
    )
}

/// The text of a special token.
fn special(metadata: &Metadata, name: &str, tokens: &[String]) -> Result<Option<String>> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let Some(id) = metadata.whole(&key)? else { return Ok(None) };
    let token = usize::try_from(id).ok().and_then(|id| tokens.get(id));
    token.cloned().map(Some).ok_or_else(|| {
        metadata.invalid(&key, &format!("is {id}; there are {} tokens", tokens.len()))
    })
}
