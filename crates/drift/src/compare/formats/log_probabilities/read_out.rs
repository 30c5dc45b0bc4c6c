//! Which position each log-probability of an answer belongs to.

use super::super::recording::InvalidRecording;
use super::distribution::{ById, Distribution, name, word};
use super::response::{Choice, Generated, LogProbs, Response};
use crate::compare::dump::{Dump, DumpText, Likeliest, Word};
use gemma_mlp::checkpoint::{Level, Remark, RemarkKind};
use std::collections::{BTreeMap, HashSet};

type Tokens = Vec<(Word, f64)>;

/// The texts of some answers, and what was noticed on the way.
#[derive(Default)]
pub(crate) struct Reading {
    pub(crate) texts: Vec<DumpText>,
    minus_infinity: usize,
    repeated: usize,
    /// Behind generated tokens whose ids are not known.
    beyond: usize,
    /// Answers that do not say how long the prompt is.
    unplaced: usize,
    /// Answers of which it is not known whether BOS is among the tokens that they echo.
    guessed: usize,
    without_ids: usize,
}

impl Reading {
    /// # Errors
    /// Nothing in it.
    pub(super) fn dump(self, format: &'static str) -> Result<Dump, InvalidRecording> {
        if self.texts.iter().all(|text| text.likeliest.is_empty()) {
            let unplaced = self.unplaced > 0;
            return Err(InvalidRecording::Invalid(match unplaced {
                true => {
                    "it does not say how many tokens the prompt has, in usage or prompt_token_ids"
                        .into()
                }
                false => {
                    "there are no log-probabilities in it; ask for logprobs or prompt_logprobs"
                        .into()
                }
            }));
        }
        let remarks = self.remarks();
        Ok(Dump { format, texts: self.texts, remarks, ..Dump::default() })
    }

    /// What was noticed.
    pub(crate) fn remarks(&self) -> Vec<Remark> {
        let all = [
            (self.minus_infinity, Level::Note, RemarkKind::Chosen, MINUS_INFINITY),
            (self.repeated, Level::Note, RemarkKind::Unused, REPEATED),
            (self.beyond, Level::Note, RemarkKind::Unused, BEYOND),
            (self.unplaced, Level::Warning, RemarkKind::Unused, UNPLACED),
            (self.guessed, Level::Warning, RemarkKind::Chosen, GUESSED),
            (self.without_ids, Level::Warning, RemarkKind::Text, WITHOUT_IDS),
        ];
        let there = all.into_iter().filter(|(count, ..)| *count > 0);
        there
            .map(|(count, level, kind, text)| Remark {
                kind,
                level,
                text: format!("{text}: {count}"),
            })
            .collect()
    }
}

const MINUS_INFINITY: &str =
    "log-probabilities that are null, -9999 or the least number of all, read as minus infinity";
const REPEATED: &str = "tokens left out because another has the same text at the same position";
const BEYOND: &str =
    "positions left out because they follow generated tokens whose ids are not given";
const UNPLACED: &str =
    "answers whose generated tokens are left out, for want of the prompt's length";
const GUESSED: &str = "answers without the prompt's length, taken to echo all of it with BOS";
const WITHOUT_IDS: &str =
    "answers without the ids of the prompt, which vLLM gives with return_token_ids; pass the ids";

impl Response {
    pub(crate) fn is_empty(&self) -> bool {
        self.choices.is_none()
            && self.prompt_logprobs.is_none()
            && self.completion_probabilities.is_none()
    }

    pub(super) fn take_model(&mut self) -> Option<String> {
        self.model.take()
    }
}

/// Adds the texts of an answer: one, or one for each of its choices.
///
/// # Errors
/// Lists of lengths that contradict each other; probabilities after sampling.
pub(crate) fn read_out(response: Response, reading: &mut Reading) -> Result<(), InvalidRecording> {
    let (prompt, completion) = (response.prompt_tokens(), response.completion_tokens());
    let (ids, at_top) = (response.prompt_token_ids, response.prompt_logprobs);
    let (generated, choices) = (response.completion_probabilities, response.choices);
    let single = choices.as_ref().is_none_or(|choices| choices.len() == 1);
    let mut of_prompt = at_top;
    for choice in choices.into_iter().flatten() {
        let Choice { logprobs, prompt_logprobs, prompt_token_ids, token_ids } = choice;
        let ids = prompt_token_ids.or_else(|| ids.clone().filter(|_| single));
        let mut text = Text::new(ids, prompt)?;
        let of_single = if single { of_prompt.take() } else { None };
        text.take_prompt(prompt_logprobs.or(of_single), reading)?;
        if let Some(logprobs) = logprobs {
            text.take_completion(logprobs, completion, token_ids, reading)?;
        }
        text.end(reading);
    }
    if of_prompt.is_some() || generated.is_some() {
        let mut text = Text::new(ids, prompt)?;
        text.take_prompt(of_prompt, reading)?;
        if let Some(generated) = generated {
            text.take_generated(generated, None, reading)?;
        }
        text.end(reading);
    }
    Ok(())
}

fn malformed(text: String) -> InvalidRecording {
    InvalidRecording::Invalid(text)
}

/// A text in the making.
struct Text {
    ids: Option<Vec<u32>>,
    /// How many tokens the prompt has.
    prompt: Option<usize>,
    positions: BTreeMap<usize, Tokens>,
}

impl Text {
    fn new(ids: Option<Vec<u32>>, said: Option<usize>) -> Result<Self, InvalidRecording> {
        match (&ids, said) {
            (Some(ids), Some(said)) if ids.len() != said => Err(malformed(format!(
                "it has {} prompt_token_ids, but says that the prompt has {said} tokens",
                ids.len()
            ))),
            _ => {
                let prompt = ids.as_ref().map(Vec::len).or(said);
                Ok(Self { ids, prompt, positions: BTreeMap::new() })
            }
        }
    }

    /// What follows each token of the prompt but the last: number i is about token i.
    fn take_prompt(
        &mut self,
        all: Option<Vec<Option<Distribution<ById>>>>,
        reading: &mut Reading,
    ) -> Result<(), InvalidRecording> {
        let Some(all) = all else { return Ok(()) };
        if let Some(prompt) = self.prompt.filter(|prompt| *prompt != all.len()) {
            let len = all.len();
            return Err(malformed(format!(
                "{len} prompt_logprobs for {prompt} tokens of the prompt"
            )));
        }
        self.prompt = Some(all.len());
        for (index, distribution) in all.into_iter().enumerate().skip(1) {
            let tokens = distribution.map(|distribution| distribution.tokens);
            self.put(index - 1, tokens.unwrap_or_default(), reading);
        }
        Ok(())
    }

    fn take_completion(
        &mut self,
        all: LogProbs,
        completion: Option<usize>,
        token_ids: Option<Vec<u32>>,
        reading: &mut Reading,
    ) -> Result<(), InvalidRecording> {
        let LogProbs { tokens, token_logprobs, top_logprobs, content } = all;
        if let Some(content) = content {
            return self.take_generated(content, token_ids, reading);
        }
        let Some(tokens) = tokens else { return Ok(()) };
        let len = tokens.len();
        let lens = [token_logprobs.as_ref().map(Vec::len), top_logprobs.as_ref().map(Vec::len)];
        for (list, name) in lens.into_iter().zip(["token_logprobs", "top_logprobs"]) {
            if let Some(other) = list.filter(|other| *other != len) {
                return Err(malformed(format!("{other} {name} for {len} tokens")));
            }
        }
        let words: Vec<Word> = tokens.iter().map(|token| word(token)).collect();
        let first = token_logprobs.as_ref().and_then(|all| all.first());
        let echoed = match completion {
            Some(completion) => len > completion,
            None => first.is_some_and(Option::is_none),
        };
        let begins = self.place(echoed, &words, completion, reading)?;
        let own = token_logprobs.unwrap_or_default().into_iter();
        let tops = top_logprobs.unwrap_or_default().into_iter();
        let mut own = own.chain(std::iter::repeat_with(|| None));
        let mut tops = tops.chain(std::iter::repeat_with(|| None));
        let ids = |from: usize| -> Option<Vec<u32>> {
            words
                .get(from..)?
                .iter()
                .map(|word| match word {
                    Word::Id(id) => Some(*id),
                    Word::Text(_) => None,
                })
                .collect()
        };
        let Some(begins) = begins else { return Ok(()) };
        let prompt = self.prompt.unwrap_or(begins);
        if begins == 0 && self.ids.is_none() {
            self.ids = ids(0).map(|mut ids| {
                ids.truncate(prompt);
                ids
            });
        }
        let generated = token_ids.or_else(|| ids(prompt.checked_sub(begins)?));
        self.extend(generated);
        for (index, word) in words.into_iter().enumerate() {
            let top = tops.next().flatten().map(|top| top.tokens);
            let own = own.next().flatten().map(|own| (word, own.0));
            let Some(position) = (begins + index).checked_sub(1) else { continue };
            let mut tokens = top.unwrap_or_default();
            tokens.extend(own.filter(|(word, _)| tokens.iter().all(|(other, _)| other != word)));
            self.put(position, tokens, reading);
        }
        Ok(())
    }

    /// Which token of prompt and completion the first one of a list is.
    fn place(
        &mut self,
        echoed: bool,
        words: &[Word],
        completion: Option<usize>,
        reading: &mut Reading,
    ) -> Result<Option<usize>, InvalidRecording> {
        let len = words.len();
        if !echoed {
            reading.unplaced += usize::from(self.prompt.is_none() && len > 0);
            return Ok(self.prompt);
        }
        let Some(prompt) = self.prompt else {
            reading.guessed += 1;
            self.prompt = Some(len - completion.unwrap_or(0));
            return Ok(Some(0));
        };
        let all = prompt + completion.unwrap_or_else(|| len.saturating_sub(prompt));
        // llama-cpp-python leaves out BOS.
        match all.checked_sub(len) {
            Some(begins @ (0 | 1)) => Ok(Some(begins)),
            _ => Err(malformed(format!(
                "{len} tokens with log-probabilities, where {all} were read"
            ))),
        }
    }

    fn take_generated(
        &mut self,
        all: Vec<Generated>,
        token_ids: Option<Vec<u32>>,
        reading: &mut Reading,
    ) -> Result<(), InvalidRecording> {
        if all.iter().any(|token| token.probs.is_some() || token.top_probs.is_some()) {
            return Err(InvalidRecording::Invalid(
                "its probabilities are those after sampling, among few candidates; ask a llama.cpp of 2025 \
                 or later, without post_sampling_probs"
                    .into(),
            ));
        }
        let Some(prompt) = self.prompt else {
            reading.unplaced += usize::from(!all.is_empty());
            return Ok(());
        };
        self.extend(token_ids.or_else(|| all.iter().map(|token| token.id).collect()));
        for (index, token) in all.into_iter().enumerate() {
            let mut tokens = token.top_logprobs.map(|top| top.0).unwrap_or_default();
            if let (Some(word), Some(own)) = (name(token.id, token.token.as_deref()), token.logprob)
            {
                let known = tokens.iter().any(|(other, _)| *other == word);
                tokens.extend((!known).then_some((word, own.0)));
            }
            if let Some(position) = (prompt + index).checked_sub(1) {
                self.put(position, tokens, reading);
            }
        }
        Ok(())
    }

    /// Puts generated tokens behind the prompt, without the last, which the model has not read.
    fn extend(&mut self, generated: Option<Vec<u32>>) {
        if let (Some(ids), Some(mut generated)) = (&mut self.ids, generated) {
            generated.pop();
            if self.prompt == Some(ids.len()) {
                ids.extend(generated);
            }
        }
    }

    fn put(&mut self, position: usize, mut tokens: Tokens, reading: &mut Reading) {
        let read = self.ids.as_ref().map(Vec::len).or(self.prompt);
        if read.is_some_and(|read| position >= read) {
            reading.beyond += 1;
            return;
        }
        let (mut once, mut twice) = (HashSet::new(), HashSet::new());
        for (word, _) in &tokens {
            if !once.insert(word.clone()) {
                twice.insert(word.clone());
            }
        }
        tokens.retain(|(word, _)| !twice.contains(word));
        reading.repeated += twice.len();
        reading.minus_infinity += tokens.iter().filter(|(_, given)| given.is_infinite()).count();
        tokens.sort_by(|a, b| b.1.total_cmp(&a.1));
        if !tokens.is_empty() {
            self.positions.entry(position).or_insert(tokens);
        }
    }

    fn end(self, reading: &mut Reading) {
        let likeliest = self.positions.into_iter();
        let likeliest: Vec<_> =
            likeliest.map(|(position, tokens)| Likeliest { position, tokens }).collect();
        reading.without_ids += usize::from(self.ids.is_none() && !likeliest.is_empty());
        reading.texts.push(DumpText { tokens: self.ids, likeliest, ..DumpText::default() });
    }
}
