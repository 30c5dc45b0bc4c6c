//! Tokens that are named by their texts, as ids.

use super::dump::{Dump, Word};
use crate::error::Result;
use gemma_mlp::Checkpoint;
use gemma_mlp::checkpoint::{Remark, RemarkKind};
use gemma_mlp::internal::token_text;
use std::collections::{HashMap, HashSet};

/// Names tokens by their ids where a dump names them by their texts. What is no token's text, or that of
/// several, is left out, and a remark says how many were.
///
/// # Errors
/// A dump that has texts, and a checkpoint without a tokenizer that can be read.
pub fn resolve(dump: &mut Dump, checkpoint: &Checkpoint) -> Result<()> {
    let words = || {
        let likeliest = dump.texts.iter().flat_map(|text| &text.likeliest);
        likeliest.flat_map(|likeliest| &likeliest.tokens).map(|(word, _)| word)
    };
    let texts: HashSet<&str> = words()
        .filter_map(|word| match word {
            Word::Text(text) => Some(text.as_str()),
            Word::Id(_) => None,
        })
        .collect();
    if texts.is_empty() {
        return Ok(());
    }
    // `None` for a text that several tokens have.
    let mut ids: HashMap<String, Option<u32>> = HashMap::new();
    for id in 0..checkpoint.config().stacks[0].vocab_size as u32 {
        let text = token_text(checkpoint, id)?;
        if texts.contains(text.as_str()) {
            ids.entry(text).and_modify(|known| *known = None).or_insert(Some(id));
        }
    }
    let (mut all, mut shared, mut unknown, mut twice) = (0, 0, 0, 0);
    for likeliest in dump.texts.iter_mut().flat_map(|text| &mut text.likeliest) {
        let mut seen: HashSet<u32> = likeliest
            .tokens
            .iter()
            .filter_map(|(word, _)| match word {
                Word::Id(id) => Some(*id),
                Word::Text(_) => None,
            })
            .collect();
        likeliest.tokens.retain_mut(|(word, _)| {
            let Word::Text(text) = word else { return true };
            all += 1;
            match ids.get(text.as_str()) {
                Some(Some(id)) if seen.insert(*id) => {
                    *word = Word::Id(*id);
                    return true;
                }
                Some(Some(_)) => twice += 1,
                Some(None) => shared += 1,
                None => unknown += 1,
            }
            false
        });
    }
    for text in &mut dump.texts {
        text.likeliest.retain(|likeliest| !likeliest.tokens.is_empty());
    }
    let mut text = format!("{all} tokens are named by their texts and looked up in the tokenizer");
    for (count, why) in [
        (shared, "have a text that several tokens share"),
        (unknown, "have a text that no token has"),
        (twice, "stand there by their id, too"),
    ] {
        if count > 0 {
            text += &format!("; {count} {why}, and are left out");
        }
    }
    let level = if shared + unknown > 0 { Remark::warning } else { Remark::note };
    dump.remarks.push(level(RemarkKind::Text, text));
    Ok(())
}
