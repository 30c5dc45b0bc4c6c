//! What hf-hub's errors mean, and what to do about them.

use super::id::RepoId;
use crate::error::HubError;
use hf_hub::HFError;
use std::error::Error;
use std::io;
use std::path::Path;

/// What was asked, of whom.
pub(super) struct Context<'a> {
    pub(super) endpoint: &'a str,
    pub(super) id: &'a RepoId,
    pub(super) revision: &'a str,
}

impl Context<'_> {
    pub(super) fn explain(&self, error: HFError) -> HubError {
        match error {
            HFError::AuthRequired { context: c }
            | HFError::Forbidden { context: c }
            | HFError::Http { context: c }
            | HFError::RepoNotFound { context: Some(c), .. }
            | HFError::RevisionNotFound { context: Some(c), .. }
            | HFError::EntryNotFound { context: Some(c), .. } => {
                let message = plain(c.server_message.as_deref().unwrap_or_default());
                self.refused(c.status.as_u16(), c.error_code.as_deref(), &c.url, message)
            }
            HFError::RateLimited { retry_after, .. } => HubError::RateLimited {
                endpoint: self.endpoint.into(),
                seconds: retry_after.map(|wait| wait.as_secs()),
            },
            HFError::Request { ref source, .. } if !source.is_decode() => {
                self.unreachable(root_cause(&error))
            }
            other => {
                HubError::Protocol { endpoint: self.endpoint.into(), message: root_cause(&other) }
            }
        }
    }

    /// By the code that the Hub gives, else by the status: to hide private repositories it answers
    /// 401 for missing ones.
    fn refused(&self, status: u16, code: Option<&str>, url: &str, message: String) -> HubError {
        if !url.starts_with(self.endpoint) {
            // Where the hub has redirected to: it knows neither repositories nor tokens.
            return HubError::Server { endpoint: origin(url), status, message };
        }
        let endpoint = self.endpoint.to_string();
        match (code, status) {
            (Some("GatedRepo"), _) => {
                let page = format!("{endpoint}/{}", self.id);
                HubError::Gated { page, signed_in: status == 403 }
            }
            (Some("RepoNotFound"), _) => HubError::NotFound { endpoint },
            (Some("RevisionNotFound"), _) => HubError::RevisionNotFound(self.revision.into()),
            (Some("EntryNotFound"), _) => HubError::MissingFile(last_segment(url)),
            (_, 401) => HubError::Unauthorized { endpoint, message },
            (_, 403) => HubError::Forbidden { endpoint, message },
            (_, 404) => HubError::NotFound { endpoint },
            (_, status) => HubError::Server { endpoint, status, message },
        }
    }

    pub(super) fn unreachable(&self, message: String) -> HubError {
        HubError::Unreachable { endpoint: self.endpoint.into(), message }
    }
}

/// The innermost cause: the outer ones name addresses, which may carry signatures.
pub(super) fn root_cause(error: &dyn Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    plain(&innermost.to_string())
}

/// Words of a stranger for a terminal: a line of bounded length, without control characters.
fn plain(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(200).collect::<String>().trim().to_string()
}

/// An address without its path, which may carry a signature.
fn origin(url: &str) -> String {
    plain(&url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/"))
}

fn last_segment(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    plain(path.rsplit('/').next().unwrap_or_default())
}

/// What the system said about a path of the cache.
pub(super) fn failed(path: &Path) -> impl FnOnce(io::Error) -> HubError {
    let path = path.to_path_buf();
    move |error| HubError::Cache { path, message: error.to_string() }
}
