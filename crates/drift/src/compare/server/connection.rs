//! Questions to a server and its answers, as far as HTTP and JSON go.

use crate::compare::formats::log_probabilities::{Response, responses};
use crate::compare::formats::recording::InvalidRecording;
use crate::error::ServerError;
use gemma_mlp::internal::{Answer, Server};
use serde::Deserialize;
use serde_json::Value;
use std::io::Read;
use std::time::Duration;

/// What is read of an answer that is not wanted.
const MAX_REFUSAL: u64 = 1 << 16;
/// What a list of models has at most.
const MAX_MODELS: u64 = 4 << 20;
/// What an answer has at most beside its log-probabilities, and for each of them. The text of a token
/// comes with its bytes, one by one.
const MAX_REST: u64 = 1 << 20;
const MAX_EACH: u64 = 1 << 10;
/// How much is shown of a stranger's words.
const MAX_WORDS: usize = 200;

pub(super) struct Connection {
    server: Server,
}

/// Why a question has no answer.
pub(super) enum Failure {
    /// This question is not understood; another may be.
    Refused(String),
    /// No question has one.
    Fatal(ServerError),
}

impl From<ServerError> for Failure {
    fn from(error: ServerError) -> Self {
        Self::Fatal(error)
    }
}

impl Connection {
    pub(super) fn new(
        url: &str,
        key: Option<&str>,
        patience: Duration,
    ) -> Result<Self, ServerError> {
        let base = url.trim().trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base);
        let server = Server::new(base, key, patience).map_err(ServerError::Settings)?;
        Ok(Self { server })
    }

    /// As messages show it.
    pub(super) fn name(&self) -> String {
        self.server.name()
    }

    /// The models that it has.
    pub(super) fn models(&self) -> Result<Vec<String>, Failure> {
        #[derive(Deserialize)]
        struct Models {
            data: Vec<Model>,
        }
        #[derive(Deserialize)]
        struct Model {
            id: String,
        }
        let path = "/v1/models";
        let answer = self.server.get(path, MAX_MODELS).map_err(ServerError::Unreachable)?;
        let mut body = accepted(answer, path)?;
        let mut json = vec![];
        body.read_to_end(&mut json).map_err(cut)?;
        let models = serde_json::from_slice::<Models>(&json);
        let models = models.map_err(|error| Failure::Refused(error.to_string()))?;
        Ok(models.data.into_iter().map(|model| model.id).collect())
    }

    /// What it says of `positions` positions, for each of which so many tokens were asked for.
    pub(super) fn post(
        &self,
        path: &'static str,
        question: &Value,
        positions: usize,
        top: usize,
    ) -> Result<Response, Failure> {
        let each = (top as u64).saturating_add(2).saturating_mul(MAX_EACH);
        let limit = each.saturating_mul(positions as u64).saturating_add(MAX_REST);
        let answer = self.server.post(path, question.to_string(), limit);
        let answer = answer.map_err(ServerError::Unreachable)?;
        let mut all = responses(accepted(answer, path)?).map_err(|error| match error {
            InvalidRecording::Io(error) => cut(error),
            error => Failure::Refused(error.to_string()),
        })?;
        match (all.pop(), all.pop()) {
            (Some(response), None) => match response.complaint() {
                Some(complaint) if response.is_empty() => Err(Failure::Refused(words(&complaint))),
                _ => Ok(response),
            },
            _ => Err(Failure::Refused("the answer is not one object of JSON".into())),
        }
    }
}

fn cut(error: std::io::Error) -> Failure {
    ServerError::Unreachable(format!("what came of it cannot be read: {error}")).into()
}

/// The body of an answer that is one.
fn accepted(answer: Answer, path: &'static str) -> Result<Box<dyn Read>, Failure> {
    let Answer { status, location, body } = answer;
    match status {
        200..300 => Ok(body),
        300..400 => {
            let to = location.unwrap_or_else(|| "nowhere".into());
            Err(ServerError::Redirect { to }.into())
        }
        // What servers answer that do not know a route or a key, and to what they cannot do.
        400 | 404 | 405 | 410 | 415 | 422 | 500 | 501 => {
            Err(Failure::Refused(format!("{status}, {}", complaint(body))))
        }
        _ => Err(ServerError::Status { path, status, message: complaint(body) }.into()),
    }
}

/// The server's own words.
fn complaint(body: Box<dyn Read>) -> String {
    let mut bytes = vec![];
    // What came before it broke off is good enough.
    let _ = body.take(MAX_REFUSAL).read_to_end(&mut bytes);
    let response = serde_json::from_slice::<Response>(&bytes).ok();
    match response.and_then(|response| response.complaint()) {
        Some(complaint) => words(&complaint),
        None => match String::from_utf8_lossy(&bytes).trim_start() {
            "" => "and says nothing".into(),
            text if text.starts_with('<') => "and sends a page of HTML".into(),
            text => words(text),
        },
    }
}

/// A stranger's words: a line of bounded length.
fn words(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect()
}
