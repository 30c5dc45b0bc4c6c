//! `tokenizer_config.json`: what transformers makes of a tokenizer beyond its file.

use super::guard::one_line;
use crate::checkpoint::json::{parse_json, read_text};
use crate::checkpoint::remark::{Remark, RemarkKind};
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

/// Its name, beside `tokenizer.json`.
pub(in crate::checkpoint) const SETTINGS: &str = "tokenizer_config.json";

/// The settings that bear on token ids. Templates of chats, lengths and sides of padding, and how
/// decoded text is tidied do not.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Settings {
    add_bos_token: Option<bool>,
    pub(super) add_eos_token: Option<bool>,
    bos_token: Option<Token>,
    tokenizer_class: Option<String>,
    add_prefix_space: Option<bool>,
    do_lower_case: Option<bool>,
    split_special_tokens: Option<bool>,
    added_tokens_decoder: BTreeMap<String, Token>,
}

/// A token's text, or an object that has it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Object { content: String },
}

impl Token {
    fn content(&self) -> &str {
        match self {
            Self::Text(content) | Self::Object { content } => content,
        }
    }
}

impl Settings {
    /// The settings beside a `tokenizer.json`; none if there is no such file. One that cannot be read
    /// is left out, and a remark says so: the tokenizer works without.
    pub(super) fn beside(tokenizer: &Path, remarks: &mut Vec<Remark>) -> Self {
        let path = tokenizer.with_file_name(SETTINGS);
        if !path.exists() {
            return Self::default();
        }
        let text = read_text(&path);
        let read = text.and_then(|text| parse_json(text.trim_start_matches('\u{feff}'), &path));
        read.unwrap_or_else(|e| {
            let text =
                format!("the tokenizer's settings are not used: {}", one_line(&e.to_string()));
            remarks.push(Remark::warning(RemarkKind::Unused, text));
            Self::default()
        })
    }

    /// Whether texts are to begin with BOS, and which setting says so; `None` leaves it to
    /// `tokenizer.json`.
    pub(super) fn asks_for_bos(&self) -> Option<(bool, String)> {
        if let Some(add) = self.add_bos_token {
            return Some((add, format!("{SETTINGS} says add_bos_token: {add}")));
        }
        let class = self.tokenizer_class.as_deref()?;
        ["GemmaTokenizer", "GemmaTokenizerFast"].contains(&class).then(|| {
            (true, format!("{SETTINGS} names the class {class}, which adds it by default"))
        })
    }

    /// The text of the token that begins a text.
    pub(super) fn bos_token(&self) -> Option<&str> {
        self.bos_token.as_ref().map(Token::content)
    }

    /// What transformers would use and could change ids, and is not used here.
    pub(super) fn unused<'a>(&self, known: impl Iterator<Item = &'a str>) -> Vec<Remark> {
        let set = [
            ("add_prefix_space", self.add_prefix_space),
            ("do_lower_case", self.do_lower_case),
            ("split_special_tokens", self.split_special_tokens),
        ];
        let unused = |text| Remark::warning(RemarkKind::Unused, text);
        let mut remarks = vec![];
        for (name, _) in set.into_iter().filter(|(_, value)| *value == Some(true)) {
            remarks.push(unused(format!(
                "{SETTINGS} sets {name}, which is not used: tokenizer.json alone says how texts are cut"
            )));
        }
        let known: HashSet<&str> = known.collect();
        let more = || self.added_tokens_decoder.values().map(Token::content);
        let mut more = more().filter(|token| !known.contains(token));
        if let Some(first) = more.next() {
            let count = 1 + more.count();
            let first = one_line(first);
            remarks.push(unused(format!(
                "{SETTINGS} adds {count} tokens that tokenizer.json lacks (as {first}); they are not used"
            )));
        }
        remarks
    }
}
