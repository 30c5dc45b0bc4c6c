//! The special tokens around a text, above all BOS, without which Gemma computes nonsense.

use super::file::{AddedToken, Parts};
use super::guard::{guard, one_line};
use super::settings::Settings;
use crate::checkpoint::remark::{Remark, RemarkKind};
use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::{Encoding, PostProcessor, PostProcessorWrapper, Token};

/// What stands before and behind every text.
pub(super) struct Specials {
    pub(super) before: Vec<u32>,
    pub(super) after: Vec<u32>,
}

/// What a model says about its tokens.
#[derive(Clone, Copy)]
pub(super) struct Vocab {
    /// The id with which texts begin.
    pub(super) bos: u32,
    /// Rows of the embedding.
    pub(super) rows: usize,
}

impl Specials {
    /// What the post-processor puts around a text.
    pub(super) fn of(parts: &Parts) -> Result<Self, String> {
        /// Stands for the text; no vocabulary goes so far.
        const TEXT: u32 = u32::MAX;
        let Some(json) = parts.get::<&RawValue>("post_processor")? else {
            return Ok(Self { before: vec![], after: vec![] });
        };
        let ids = guard(|| {
            let processor: PostProcessorWrapper = serde_json::from_str(json.get())?;
            let text = Encoding::from_tokens(vec![Token::new(TEXT, String::new(), (0, 0))], 0);
            Ok(processor.process(text, None, true)?.get_ids().to_vec())
        });
        let ids = ids.map_err(|reason| format!("post_processor: {reason}"))?;
        let mut parts = ids.split(|&id| id == TEXT).map(<[u32]>::to_vec);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(before), Some(after), None) => Ok(Self { before, after }),
            _ => Err("post_processor: a text must stand in its template once".into()),
        }
    }

    /// Adds or removes BOS as the settings ask.
    pub(super) fn settle_bos(
        &mut self,
        settings: &Settings,
        bos: u32,
        name: &str,
    ) -> Option<Remark> {
        let has = self.before.first() == Some(&bos);
        let (asked, why) = settings.asks_for_bos()?;
        let text = match (asked, has) {
            (true, false) => {
                self.before.insert(0, bos);
                format!(
                    "{why}, so {name} is added before each text, although tokenizer.json adds none"
                )
            }
            (false, true) => {
                self.before.retain(|&id| id != bos);
                format!(
                    "{why}, so {name} is not added before a text, although tokenizer.json adds it; \
                     Gemma computes nonsense without"
                )
            }
            (true, true) | (false, false) => return None,
        };
        Some(Remark::warning(RemarkKind::Chosen, text))
    }
}

/// What a `tokenizer.json` and the settings beside it say that is not used, contradicts itself, or is
/// odd.
pub(super) fn remarks(
    parts: &Parts,
    specials: &Specials,
    settings: &Settings,
    vocab: Vocab,
) -> Result<Vec<Remark>, String> {
    let mut remarks = not_applied(parts)?;
    let contents = parts.added_tokens.iter().map(|token| &*token.content);
    remarks.extend(settings.unused(contents));
    let Vocab { bos, rows } = vocab;
    let named = settings.bos_token().and_then(|name| {
        let token = parts.added_tokens.iter().find(|token| token.content == name)?;
        Some((token.id, one_line(name)))
    });
    if let Some((id, name)) = named
        && id != bos
    {
        remarks.push(Remark::warning(
            RemarkKind::Chosen,
            format!(
                "the tokenizer's settings begin a text with {name} ({id}), config.json with \
                 bos_token_id {bos}; {bos} counts"
            ),
        ));
    }
    match (settings.add_eos_token, &specials.after[..]) {
        (Some(true), []) => remarks.push(Remark::warning(
            RemarkKind::Unused,
            "tokenizer_config.json asks for an end token behind each text (add_eos_token), but \
             tokenizer.json adds none: none is added",
        )),
        (Some(false), [_, ..]) => remarks.push(Remark::warning(
            RemarkKind::Chosen,
            "tokenizer.json adds tokens behind each text, although tokenizer_config.json says \
             add_eos_token: false: they are added",
        )),
        _ => {}
    }
    // Gemma 3's tokenizer serves its models with and without images.
    let known = |token: &&AddedToken| token.content != "<image_soft_token>";
    let added = parts.added_tokens.iter().filter(known).map(|token| token.id);
    let mut beyond: Vec<_> = parts.vocabulary.ids.iter().copied().chain(added).collect();
    beyond.retain(|&id| id as usize >= rows);
    beyond.sort_unstable();
    beyond.dedup();
    if let Some(last) = beyond.last() {
        let (count, s) = (beyond.len(), if beyond.len() == 1 { "" } else { "s" });
        remarks.push(Remark::note(
            RemarkKind::Text,
            format!(
                "tokenizer.json has {count} token{s} beyond the {rows} rows of the embedding (ids up \
                 to {last}); a text with one of them is refused"
            ),
        ));
    }
    Ok(remarks)
}

/// Padding, truncation and dropped merges, which are for batches and training.
fn not_applied(parts: &Parts) -> Result<Vec<Remark>, String> {
    let mut remarks = vec![];
    let mut unused = |text| remarks.push(Remark::note(RemarkKind::Unused, text));
    if let Some(truncation) = parts.get::<Value>("truncation")? {
        let length = truncation["max_length"].as_u64();
        let length = length.map_or(String::new(), |length| format!(" at {length} tokens"));
        unused(format!("tokenizer.json asks for truncation{length}; it is not applied"));
    }
    if let Some(padding) = parts.get::<Value>("padding")? {
        let length = padding["strategy"]["Fixed"].as_u64();
        let multiple = padding["pad_to_multiple_of"].as_u64();
        let length = length.map(|length| format!(" to {length} tokens"));
        let multiple = multiple.map(|multiple| format!(" to multiples of {multiple} tokens"));
        let to = length.or(multiple).unwrap_or_default();
        unused(format!("tokenizer.json asks for padding{to}; it is not applied"));
    }
    if parts.model::<f64>("dropout")?.is_some_and(|dropout| dropout != 0.0) {
        unused("tokenizer.json asks for merges to be dropped at random (dropout); none is".into());
    }
    Ok(remarks)
}
