//! Token ids as JSON.

use super::oracle::told;
use gemma_mlp_drift::input::{Texts, TokenIds, parse_ids};
use serde_json::Value;

/// Reads ids, and compares them with a plain reading of the same JSON.
pub fn ids(data: &[u8]) {
    let Ok(json) = std::str::from_utf8(data) else { return };
    let texts = told(parse_ids(json));
    let json = json.strip_prefix('\u{feff}').unwrap_or(json);
    match serde_json::from_str(json) {
        // Of these more is asked than that ids are there.
        Ok(Value::Object(fields)) => {
            if let Some(texts) = &texts {
                assert_eq!(Some(texts), plain(&fields["input_ids"].to_string()).as_ref());
            }
        }
        _ => assert_eq!(texts, plain(json)),
    }
    let Some(ids) = texts.and_then(|texts| told(TokenIds::batched(texts))) else { return };
    assert_eq!(ids.as_slice().len(), ids.batch() * ids.seq_len());
    told(ids.check(1000));
}

/// One list, or several.
fn plain(json: &str) -> Option<Texts> {
    let one = serde_json::from_str(json).map(|ids: Vec<u32>| vec![ids]);
    let texts = one.or_else(|_| serde_json::from_str::<Vec<Vec<u32>>>(json)).ok()?;
    (!texts.is_empty() && texts.iter().all(|ids| !ids.is_empty())).then(|| texts.into())
}
