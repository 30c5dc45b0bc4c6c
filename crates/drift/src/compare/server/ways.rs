//! The ways to ask a server for what it thinks of a text, given as ids.

use super::connection::{Connection, Failure};
use crate::compare::dump::DumpText;
use crate::compare::formats::log_probabilities::{Reading, read_out};
use crate::error::ServerError;
use serde_json::{Value, json};

/// A way to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `/v1/completions` with `prompt_logprobs`: vLLM's.
    Prompt,
    /// `/v1/completions` with `echo` and `logprobs`.
    Echo,
    /// llama.cpp's `/completion` with `n_probs`, a request for each position.
    LlamaCpp,
    /// `/v1/completions` with `logprobs`, a request for each position.
    Prefixes,
}

impl Way {
    /// In the order in which they are tried: one request a text before one a position, and ids
    /// before texts.
    pub(super) const ALL: [Self; 4] = [Self::Prompt, Self::Echo, Self::LlamaCpp, Self::Prefixes];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Prompt => "prompt_logprobs of /v1/completions",
            Self::Echo => "echo and logprobs of /v1/completions",
            Self::LlamaCpp => "n_probs of /completion, a request for each position",
            Self::Prefixes => "logprobs of /v1/completions, a request for each position",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::LlamaCpp => "/completion",
            _ => "/v1/completions",
        }
    }

    /// Whether a request is for one position.
    fn is_stepwise(self) -> bool {
        matches!(self, Self::LlamaCpp | Self::Prefixes)
    }

    fn question(self, model: Option<&str>, ids: &[u32], top: usize) -> Value {
        let mut question = match self {
            Self::Prompt => json!({
                "prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": top,
                "prompt_logprobs": top, "return_tokens_as_token_ids": true, "return_token_ids": true,
            }),
            Self::Echo => json!({
                "prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": top, "echo": true,
            }),
            Self::LlamaCpp => json!({
                "prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": top, "cache_prompt": true,
                "post_sampling_probs": false, "stream": false,
            }),
            Self::Prefixes => json!({
                "prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": top,
            }),
        };
        if let Some(model) = model {
            question["model"] = model.into();
        }
        question
    }
}

/// A way that was found to work, or is being tried.
pub(super) struct Asking<'a> {
    pub(super) connection: &'a Connection,
    pub(super) model: Option<&'a str>,
    pub(super) way: Way,
    pub(super) top: usize,
}

impl Asking<'_> {
    /// What the server says of a text. Progress is told by the number of positions.
    pub(super) fn text(
        &self,
        ids: &[u32],
        reading: &mut Reading,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Told, Failure> {
        if !self.way.is_stepwise() {
            let told = self.request(ids, ids.len(), reading)?;
            let last = ids.len() - 1;
            let covers = told.text.likeliest.iter().any(|all| last == 0 || all.position < last);
            if !covers {
                return Err(Failure::Refused("it says nothing of the prompt's own tokens".into()));
            }
            progress(ids.len());
            return Ok(told);
        }
        let mut all = Told::default();
        for len in 1..=ids.len() {
            let told = self.request(&ids[..len], 1, reading)?;
            if len == 1 && told.text.likeliest.is_empty() {
                return Err(Failure::Refused(
                    "there are no log-probabilities in the answer".into(),
                ));
            }
            all.says_ids = told.says_ids;
            all.says_count = told.says_count;
            all.text.tokens = told.text.tokens;
            all.text.likeliest.extend(told.text.likeliest);
            progress(len);
        }
        Ok(all)
    }

    fn request(
        &self,
        ids: &[u32],
        positions: usize,
        reading: &mut Reading,
    ) -> Result<Told, Failure> {
        let question = self.way.question(self.model, ids, self.top);
        let mut response = self.connection.post(self.way.path(), &question, positions, self.top)?;
        let said = response.prompt_tokens();
        response.assume_prompt(ids.len());
        // Whoever counts one more may have put it there.
        if let Some(read) = said.filter(|read| *read != ids.len() && !response.has_ids()) {
            return Err(ServerError::Tokens { sent: ids.len(), read }.into());
        }
        let before = reading.texts.len();
        read_out(response, reading).map_err(|error| Failure::Refused(error.to_string()))?;
        let mut texts = reading.texts.drain(before..);
        let (Some(mut text), None) = (texts.next(), texts.next()) else {
            return Err(Failure::Refused("the answer is not about one text".into()));
        };
        let says_ids = text.tokens.is_some();
        let tokens = text.tokens.get_or_insert_with(|| ids.to_vec());
        if self.way.is_stepwise() && tokens.len() != ids.len() {
            return Err(ServerError::Tokens { sent: ids.len(), read: tokens.len() }.into());
        }
        let read = tokens.len();
        text.likeliest.retain(|all| all.position < read);
        if self.way.is_stepwise() {
            // An echo would be of what was asked before.
            text.likeliest.retain(|all| all.position + 1 == read);
        }
        Ok(Told { text, says_ids, says_count: said.is_some() })
    }
}

/// What a server says of a text.
#[derive(Default)]
pub(super) struct Told {
    pub(super) text: DumpText,
    /// Whether it says which ids it has read.
    pub(super) says_ids: bool,
    /// Whether it says how many.
    pub(super) says_count: bool,
}
