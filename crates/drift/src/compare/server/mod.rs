//! Log-probabilities of a model that someone serves: what a server says of texts that it is given as ids.
//!
//! What it can say is found out by asking, in this order: vLLM's `prompt_logprobs`; `echo` with
//! `logprobs`; llama.cpp's own `/completion`, position by position; `logprobs` of `/v1/completions`,
//! position by position. A text is never sent. Redirects are not followed.

mod connection;
mod ways;

pub use crate::error::ServerError;

use super::dump::{Dump, Word};
use super::formats::log_probabilities::Reading;
use crate::error::{Error, Result};
use connection::{Connection, Failure};
use gemma_mlp::checkpoint::{Remark, RemarkKind};
use std::time::Duration;
use ways::{Asking, Told, Way};

/// What servers give that do not give as much as is asked for: vLLM's own limit, and OpenAI's.
const LESS: [usize; 2] = [20, 5];

/// A server, and how to ask it.
#[derive(Clone)]
pub struct Server {
    /// Its address, as in `http://127.0.0.1:8000`, with or without `/v1`.
    pub url: String,
    /// Which of its models to ask; the first that it lists where that is `None`.
    pub model: Option<String>,
    /// A key, which is sent with every request.
    pub key: Option<String>,
    /// How long an answer may take.
    pub patience: Duration,
}

impl Server {
    /// With the key of the environment variable `OPENAI_API_KEY`, if it is set, and ten minutes of
    /// patience.
    pub fn new(url: impl Into<String>) -> Self {
        let key = std::env::var("OPENAI_API_KEY").ok();
        Self { url: url.into(), model: None, key, patience: Duration::from_secs(600) }
    }

    /// Asks for the `top` likeliest tokens behind each position of texts. `progress` is told how many
    /// positions are done, and of how many.
    ///
    /// # Errors
    /// No ids; a server that cannot be asked, gives no log-probabilities, or reads other tokens.
    pub fn ask(
        &self,
        texts: &[Vec<u32>],
        top: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Dump> {
        match texts.iter().position(Vec::is_empty) {
            _ if texts.is_empty() => return Err(Error::NoIds),
            Some(_) if texts.len() == 1 => return Err(Error::NoIds),
            Some(index) => return Err(Error::EmptyText { index }),
            None => {}
        }
        let key = self.key.as_deref();
        let failed = |server: String| move |reason| Error::Server { server, reason };
        let connection = Connection::new(&self.url, key, self.patience)
            .map_err(failed("the address of the server".into()))?;
        let name = connection.name();
        let dump = self.ask_at(&connection, texts, top.max(1), progress);
        dump.map_err(failed(name))
    }

    fn ask_at(
        &self,
        connection: &Connection,
        texts: &[Vec<u32>],
        top: usize,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Dump, ServerError> {
        let mut remarks = vec![];
        let model = self.model(connection, &mut remarks)?;
        let total = texts.iter().map(Vec::len).sum();
        progress(0, total);
        let mut reading = Reading::default();
        let mut told = vec![];
        let first = &mut |done| progress(done, total);
        let (asking, of_first) =
            find(connection, model.as_deref(), &texts[0], top, &mut reading, first)?;
        told.push(of_first);
        let mut done = texts[0].len();
        for ids in &texts[1..] {
            let here = &mut |more| progress(done + more, total);
            let of_text =
                asking.text(ids, &mut reading, here).map_err(|failure| match failure {
                    Failure::Fatal(error) => error,
                    Failure::Refused(why) => ServerError::Nothing(format!(
                        "text {} by {}: {why}",
                        told.len(),
                        asking.way.name()
                    )),
                })?;
            told.push(of_text);
            done += ids.len();
        }
        remarks.push(Remark::note(
            RemarkKind::Chosen,
            format!("the server was asked for {} likeliest by {}", asking.top, asking.way.name()),
        ));
        if asking.top < top {
            let text = format!("the server gives {} likeliest, not {top}", asking.top);
            remarks.push(Remark::warning(RemarkKind::Unused, text));
        }
        remarks.extend(reading.remarks().into_iter().filter(|remark| !is_about_ids(remark)));
        remarks.extend(about(&told, texts, asking.top));
        let mut dump = Dump {
            source: connection.name(),
            format: "a server",
            texts: told.into_iter().map(|told| told.text).collect(),
            remarks,
            ..Dump::default()
        };
        if asking.way == Way::LlamaCpp {
            let text =
                "the server computes each position alone, behind those it has kept, as in decoding";
            dump.remarks.push(Remark::note(RemarkKind::Chosen, text));
            dump.metadata.insert("phase".into(), "decode".into());
        }
        let framework = match asking.way {
            Way::Prompt => Some("vllm".to_string()),
            Way::LlamaCpp => Some("llama.cpp".to_string()),
            Way::Echo | Way::Prefixes => None,
        };
        for (key, value) in [("framework", framework), ("model", model.clone())] {
            dump.metadata.extend(value.map(|value| (key.to_string(), value)));
        }
        Ok(dump)
    }

    /// Which model to ask. A server of one model may list none.
    fn model(
        &self,
        connection: &Connection,
        remarks: &mut Vec<Remark>,
    ) -> Result<Option<String>, ServerError> {
        if self.model.is_some() {
            return Ok(self.model.clone());
        }
        match connection.models() {
            Ok(models) => {
                if let [first, _, ..] = &models[..] {
                    let count = models.len();
                    let text =
                        format!("the server has {count} models; the first, {first}, is asked");
                    remarks.push(Remark::warning(RemarkKind::Chosen, text));
                }
                Ok(models.into_iter().next())
            }
            Err(Failure::Refused(why)) => {
                let text = format!("the server lists no models, and is asked for none: {why}");
                remarks.push(Remark::note(RemarkKind::Chosen, text));
                Ok(None)
            }
            Err(Failure::Fatal(error)) => Err(error),
        }
    }
}

/// Asks a server with the key of the environment for its first model: [`Server::ask`].
///
/// # Errors
/// Those of [`Server::ask`].
pub fn ask(
    url: &str,
    texts: &[Vec<u32>],
    top: usize,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Dump> {
    Server::new(url).ask(texts, top, progress)
}

/// The first way that works, and what it gives for the first text.
fn find<'a>(
    connection: &'a Connection,
    model: Option<&'a str>,
    ids: &[u32],
    top: usize,
    reading: &mut Reading,
    progress: &mut dyn FnMut(usize),
) -> Result<(Asking<'a>, Told), ServerError> {
    let mut reasons: Vec<String> = vec![];
    for way in Way::ALL {
        let mut reason = String::new();
        for top in [top].into_iter().chain(LESS.into_iter().filter(|less| *less < top)) {
            let asking = Asking { connection, model, way, top };
            let mut tried = Reading::default();
            match asking.text(ids, &mut tried, progress) {
                Ok(told) => {
                    *reading = tried;
                    return Ok((asking, told));
                }
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::Refused(why)) => {
                    let too_many = why.to_lowercase().contains("logprob");
                    reason = why;
                    if !too_many {
                        break;
                    }
                }
            }
        }
        reasons.push(format!("{}: {reason}", way.name()));
    }
    Err(ServerError::Nothing(reasons.join("; ")))
}

/// We know the ids that we have sent.
fn is_about_ids(remark: &Remark) -> bool {
    remark.kind == RemarkKind::Text
}

/// What a server did not say, or said otherwise.
fn about(told: &[Told], texts: &[Vec<u32>], top: usize) -> Vec<Remark> {
    let mut remarks = vec![];
    let other = told.iter().zip(texts).filter(|(told, ids)| {
        told.text.tokens.as_deref().is_some_and(|read| !read.starts_with(ids))
    });
    let other = other.count();
    if other > 0 {
        let text = format!(
            "the server has read other tokens than it was sent in {other} of {} texts, such as BOS twice; \
             those that it has read are compared",
            texts.len()
        );
        remarks.push(Remark::warning(RemarkKind::Text, text));
    }
    if told.iter().any(|told| !told.says_ids) {
        let text = match told.iter().all(|told| told.says_ids || told.says_count) {
            true => {
                "the server says how many tokens it has read, which is as many as it was sent, and not which"
            }
            false => "the server does not say which tokens it has read, nor how many",
        };
        remarks.push(Remark::note(RemarkKind::Text, text));
    }
    let positions: usize = told.iter().map(|t| t.text.tokens.as_ref().map_or(0, Vec::len)).sum();
    let all = || told.iter().flat_map(|told| &told.text.likeliest);
    let without = positions.saturating_sub(all().count());
    if without > 0 {
        let text = format!("the server says nothing of {without} of {positions} positions");
        remarks.push(Remark::note(RemarkKind::Unused, text));
    }
    let fewer = all().filter(|likeliest| likeliest.tokens.len() < top).count();
    if fewer > 0 {
        let text =
            format!("the server gives fewer than {top} tokens at {fewer} of {positions} positions");
        remarks.push(Remark::note(RemarkKind::Unused, text));
    }
    let by_text = all().flat_map(|likeliest| &likeliest.tokens);
    let by_text = by_text.filter(|(word, _)| matches!(word, Word::Text(_))).count();
    if by_text > 0 {
        let text =
            format!("the server names {by_text} tokens by their texts, which tokens may share");
        remarks.push(Remark::note(RemarkKind::Text, text));
    }
    remarks
}
