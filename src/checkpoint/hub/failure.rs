//! What failures mean, and what to do about them.

use super::address::origin;
use super::http::{Http, PATIENCE, refusal};
use super::id::RepoId;
use crate::error::HubError;
use std::error::Error;
use std::io::{self, ErrorKind};
use std::path::Path;
use ureq::http::{Response, Uri, header};
use ureq::{Body, ResponseExt};

/// What was asked, of whom.
pub(super) struct Context<'a> {
    pub(super) endpoint: &'a str,
    pub(super) http: &'a Http,
    pub(super) id: &'a RepoId,
    pub(super) revision: &'a str,
}

/// An answer that is of no use.
pub(super) struct Refusal {
    pub(super) error: HubError,
    /// What came, if the hub may just not know the question: mirrors serve files, but few or none
    /// of the hub's lists. The hub itself says in a code what it means.
    pub(super) no_route: Option<String>,
}

impl Refusal {
    /// No answer of a hub.
    pub(super) fn odd(endpoint: &str, message: &str) -> Self {
        let error = HubError::Protocol { endpoint: endpoint.into(), message: message.into() };
        Self { error, no_route: Some(message.into()) }
    }
}

impl From<HubError> for Refusal {
    fn from(error: HubError) -> Self {
        Self { error, no_route: None }
    }
}

impl From<Refusal> for HubError {
    fn from(refusal: Refusal) -> Self {
        refusal.error
    }
}

impl Context<'_> {
    /// There is no answer.
    pub(super) fn unanswered(&self, error: &ureq::Error) -> HubError {
        let message = reason(error);
        match error {
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) => HubError::Settings(message),
            _ => HubError::Unreachable { endpoint: self.endpoint.into(), message },
        }
    }

    /// By the code that the Hub gives, else by the status: to hide private repositories it answers
    /// 401 for missing ones.
    pub(super) fn refused(&self, response: Response<Body>) -> Refusal {
        let status = response.status().as_u16();
        let unknown = matches!(status, 400 | 401 | 403..=406 | 410 | 500 | 501)
            && self.http.is_of_hub(&response)
            && text(&response, "X-Error-Code").is_none_or(str::is_empty);
        let no_route = unknown.then(|| format!("answers {status}"));
        Refusal { error: self.refusal(response), no_route }
    }

    fn refusal(&self, mut response: Response<Body>) -> HubError {
        let endpoint = self.endpoint.to_string();
        let status = response.status().as_u16();
        if status == 429 {
            let seconds = text(&response, header::RETRY_AFTER.as_str());
            return HubError::RateLimited {
                endpoint,
                seconds: seconds.and_then(|seconds| seconds.trim().parse().ok()),
            };
        }
        let message = message(&mut response);
        if !self.http.is_of_hub(&response) {
            // Where the hub has redirected to: it knows neither repositories nor tokens.
            let endpoint = plain(&origin(response.get_uri()));
            return HubError::Server { endpoint, status, message };
        }
        match (text(&response, "X-Error-Code"), status) {
            (Some("GatedRepo"), _) => {
                let page = format!("{endpoint}/{}", self.id);
                HubError::Gated { page, signed_in: status == 403 }
            }
            (Some("RepoNotFound"), _) => HubError::NotFound { endpoint },
            (Some("RevisionNotFound"), _) => HubError::RevisionNotFound(self.revision.into()),
            (Some("EntryNotFound"), _) => {
                let file = last_segment(response.get_uri());
                HubError::MissingFile { file, instead: String::new() }
            }
            (_, 401) => HubError::Unauthorized { endpoint, message },
            (_, 403) => HubError::Forbidden { endpoint, message },
            (_, 404) => HubError::NotFound { endpoint },
            (_, status) => HubError::Server { endpoint, status, message },
        }
    }
}

/// The server's own words.
fn message(response: &mut Response<Body>) -> String {
    if let Some(message) = text(response, "X-Error-Message") {
        return plain(message);
    }
    let json: serde_json::Value = serde_json::from_str(&refusal(response)).unwrap_or_default();
    plain(json["error"].as_str().unwrap_or_default())
}

pub(super) fn text<'a>(response: &'a Response<Body>, header: &str) -> Option<&'a str> {
    response.headers().get(header)?.to_str().ok()
}

/// Why there is no answer, or no more of it.
pub(super) fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => format!("nothing for {} s", PATIENCE.as_secs()),
        ureq::Error::Io(error) => root_cause(error),
        other => plain(&other.to_string()),
    }
}

/// The innermost cause: the outer ones name addresses, which may carry signatures.
fn root_cause(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    plain(&innermost.to_string())
}

/// Words of a stranger for a terminal: a line of bounded length, without control characters.
pub(super) fn plain(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(200).collect::<String>().trim().to_string()
}

fn last_segment(uri: &Uri) -> String {
    plain(uri.path().rsplit('/').next().unwrap_or_default())
}

/// What the system said about a path of the cache.
pub(super) fn failed(path: &Path) -> impl FnOnce(io::Error) -> HubError {
    let path = path.to_path_buf();
    move |error| {
        let message = error.to_string();
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                HubError::NoSpace { path, message }
            }
            _ => HubError::Cache { path, message },
        }
    }
}
