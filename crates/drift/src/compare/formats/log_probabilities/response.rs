//! What servers and libraries answer, as far as it is about log-probabilities. Which key is there says
//! whose answer it is.

use super::distribution::{ById, ByText, Distribution, Entries, Given};
use serde::Deserialize;
use serde_json::Value;

/// An answer: OpenAI's, vLLM's, the bare object of vLLM's library, or that of llama.cpp's own route.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Response {
    pub(super) model: Option<String>,
    pub(super) choices: Option<Vec<Choice>>,
    pub(super) usage: Option<Usage>,
    pub(super) prompt_token_ids: Option<Vec<u32>>,
    pub(super) prompt_logprobs: Option<Vec<Option<Distribution<ById>>>>,
    pub(super) completion_probabilities: Option<Vec<Generated>>,
    pub(super) tokens_evaluated: Option<usize>,
    /// What went wrong, by whose ever habit.
    error: Option<Value>,
    detail: Option<Value>,
    message: Option<Value>,
}

impl Response {
    /// The server's own words, if it says that something is wrong.
    pub(crate) fn complaint(&self) -> Option<String> {
        let of = |value: &Value| match &value["message"] {
            Value::String(message) => message.clone(),
            _ => value.as_str().map_or_else(|| value.to_string(), String::from),
        };
        let all = [&self.error, &self.detail, &self.message];
        all.into_iter().flatten().find(|value| !value.is_null()).map(of)
    }

    /// How many tokens the model has read, as it says.
    pub(crate) fn prompt_tokens(&self) -> Option<usize> {
        let single = self.choices.as_ref().is_none_or(|choices| choices.len() == 1);
        let usage = self.usage.as_ref().filter(|_| single);
        self.tokens_evaluated.or(usage.and_then(|usage| usage.prompt_tokens))
    }

    /// Whether it says which tokens the model has read.
    #[cfg(feature = "server")]
    pub(crate) fn has_ids(&self) -> bool {
        let mut choices = self.choices.iter().flatten();
        self.prompt_token_ids.is_some() || choices.any(|choice| choice.prompt_token_ids.is_some())
    }

    /// Sets how many tokens the model has read, where the answer does not say it.
    #[cfg(feature = "server")]
    pub(crate) fn assume_prompt(&mut self, tokens: usize) {
        if self.prompt_tokens().is_none() && self.prompt_token_ids.is_none() {
            self.tokens_evaluated = Some(tokens);
        }
    }

    pub(super) fn completion_tokens(&self) -> Option<usize> {
        let single = self.choices.as_ref().is_none_or(|choices| choices.len() == 1);
        self.usage.as_ref().filter(|_| single)?.completion_tokens
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Usage {
    prompt_tokens: Option<usize>,
    completion_tokens: Option<usize>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Choice {
    pub(super) logprobs: Option<LogProbs>,
    pub(super) prompt_logprobs: Option<Vec<Option<Distribution<ById>>>>,
    pub(super) prompt_token_ids: Option<Vec<u32>>,
    pub(super) token_ids: Option<Vec<u32>>,
}

/// Of the tokens that were generated, and before them those of the prompt if it is echoed.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct LogProbs {
    pub(super) tokens: Option<Vec<String>>,
    pub(super) token_logprobs: Option<Vec<Option<Given>>>,
    pub(super) top_logprobs: Option<Vec<Option<Distribution<ByText>>>>,
    /// The same as chats have it, and llama.cpp everywhere.
    pub(super) content: Option<Vec<Generated>>,
}

/// A token that was generated, and its likeliest rivals.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Generated {
    pub(super) id: Option<u32>,
    pub(super) token: Option<String>,
    pub(super) logprob: Option<Given>,
    pub(super) top_logprobs: Option<Entries>,
    /// What llama.cpp gave before 2025, and gives after sampling: probabilities among the candidates.
    pub(super) probs: Option<serde::de::IgnoredAny>,
    pub(super) top_probs: Option<serde::de::IgnoredAny>,
}
