//! `tokenizer.json`, and texts.

use super::oracle::told;
use gemma_mlp::internal::tokenize;

/// Encodes and decodes by a tokenizer: the bytes up to a NUL are a text, those behind it the file.
pub fn tokenizer(data: &[u8]) {
    let at = data.iter().position(|&byte| byte == 0);
    let (text, json) = at.map_or((&b""[..], data), |at| (&data[..at], &data[at + 1..]));
    let text = String::from_utf8_lossy(text);
    let text = if text.is_empty() { "The fox\n<eos> \u{e9}\u{1f98a} 12" } else { &text };
    let (encoded, decoded) = tokenize(json.to_vec(), text, &[2, 3, 4, 5, 1, 1000, u32::MAX]);
    told(decoded);
    let Some(ids) = told(encoded) else { return };
    assert!(!ids.is_empty(), "a text has tokens");
    assert!(ids.len() <= 1 << 16, "{} tokens of {} bytes", ids.len(), text.len());
}
