//! Questions to the hub, and files from it.

use super::address::{parse, segment};
use super::cache::RepoCache;
use super::failure::{Context, plain, reason};
use super::http::{Ask, Http};
use super::id::{RepoId, is_commit, is_hex};
use super::part::Part;
use super::remote::RemoteFile;
use super::{Hub, environment};
use crate::error::HubError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;
use std::thread;
use ureq::http::header::{HeaderValue, InvalidHeaderValue};
use ureq::http::{Response, Uri};
use ureq::{Body, Error};

/// A repository on a hub.
pub(super) struct Client<'a> {
    id: &'a RepoId,
    hub: &'a Hub,
    endpoint: String,
    http: Http,
}

impl<'a> Client<'a> {
    /// Reads the environment for what the settings leave open. Makes no request.
    pub(super) fn new(id: &'a RepoId, hub: &'a Hub) -> Result<Self, HubError> {
        let endpoint = hub.endpoint.clone().unwrap_or_else(environment::endpoint);
        let endpoint = endpoint.trim().trim_end_matches('/').to_string();
        let uri = address(&endpoint)?;
        let token = hub.token.clone().or_else(environment::token).unwrap_or_default();
        let token = (!token.trim().is_empty()).then(|| bearer(token.trim())).transpose();
        let token = token.map_err(|_| HubError::Unauthorized {
            endpoint: endpoint.clone(),
            message: "yours has characters that no token has".into(),
        })?;
        let http = Http::new(&uri, token)?;
        Ok(Self { id, hub, endpoint, http })
    }

    /// The commit that a revision is at now.
    pub(super) fn commit(&self, revision: &str) -> Result<String, HubError> {
        #[derive(Deserialize)]
        struct Revision {
            sha: Option<String>,
        }
        let path = format!("api/{}", self.id.at(revision).api_url());
        let Revision { sha } = self.json(revision, &path, &Ask::Get)?;
        sha.filter(|commit| is_commit(commit)).ok_or_else(|| self.odd("no commit hash"))
    }

    /// Those of the files that the repository has.
    pub(super) fn files(
        &self,
        commit: &str,
        names: &[&str],
    ) -> Result<HashMap<String, RemoteFile>, HubError> {
        #[derive(Deserialize)]
        #[serde(tag = "type", rename_all = "lowercase")]
        enum Entry {
            File {
                path: String,
                size: u64,
                oid: String,
                lfs: Option<Lfs>,
            },
            #[serde(other)]
            Other,
        }
        /// What lies outside git; `oid` is its SHA-256.
        #[derive(Deserialize)]
        struct Lfs {
            oid: String,
        }
        let repo = self.id.at(commit);
        let path = format!("api/models/{}/paths-info/{}", repo.url(), repo.url_revision());
        let ask = Ask::Post(json!({ "paths": names }).to_string());
        let mut files = HashMap::new();
        for entry in self.json::<Vec<Entry>>(commit, &path, &ask)? {
            let Entry::File { path: name, size, oid, lfs } = entry else { continue };
            let checksum = lfs.map_or(oid, |lfs| lfs.oid);
            // It becomes the name of a file.
            if !is_hex(&checksum, 64) && !is_hex(&checksum, 40) {
                return Err(self.odd("a file without a checksum"));
            }
            files.insert(name.clone(), RemoteFile { name, size, checksum });
        }
        Ok(files)
    }

    /// Brings a file into the cache if it is not there. `progress` is told its bytes.
    pub(super) fn fetch(
        &self,
        cache: &RepoCache,
        commit: &str,
        file: &RemoteFile,
        progress: &mut dyn FnMut(u64),
    ) -> Result<PathBuf, HubError> {
        if let Some(path) = cache.find(commit, file)? {
            progress(file.size);
            return Ok(path);
        }
        let mut part = cache.part(file)?;
        // Another process may have been at it while we waited for the lock.
        if cache.find(commit, file)?.is_none() {
            // Failures in a row that bring nothing are counted, so that a big file may break often.
            let (mut tries, mut furthest) = (0, part.len());
            while let Err(error) = self.append(commit, file, &mut part, progress) {
                if part.len() > furthest {
                    (tries, furthest) = (0, part.len());
                }
                if tries == self.hub.retries || !matches!(error, HubError::Interrupted { .. }) {
                    return Err(error);
                }
                self.wait(tries);
                tries += 1;
            }
            part.finish(file)?;
        }
        let found = cache.find(commit, file)?;
        found.ok_or_else(|| self.odd(&format!("{} vanished from the cache", file.name)))
    }

    /// Adds what is missing of a file.
    fn append(
        &self,
        commit: &str,
        file: &RemoteFile,
        part: &mut Part,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), HubError> {
        progress(part.len());
        if part.len() == file.size {
            return Ok(());
        }
        let repo = self.id.at(commit);
        let (revision, name) = (repo.url_revision(), segment(&file.name));
        let path = format!("{}/resolve/{revision}/{name}", repo.url());
        let mut response = loop {
            let range = (part.len() > 0).then_some(part.len()..file.size);
            let response = self.ask(commit, &path, &Ask::File(range))?;
            match response.body().content_length() {
                Some(len) if len == file.size - part.len() => break response,
                None if part.len() == 0 => break response,
                // Not the range that was asked for: some servers send everything, or say so.
                _ if part.len() > 0 => part.restart()?,
                _ => return Err(self.odd(&format!("{} has two sizes", file.name))),
            }
        };
        let known = response.body().content_length().is_some();
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; 1 << 17];
        while part.len() < file.size {
            let broken = |part: &Part, message| HubError::Interrupted {
                file: file.name.clone(),
                done: part.len(),
                size: file.size,
                message,
            };
            match body.read(&mut buffer) {
                Err(error) => return Err(broken(part, reason(&error.into()))),
                Ok(0) => return Err(broken(part, "the server closed it".into())),
                Ok(len) => part.push(&buffer[..len])?,
            }
            progress(part.len());
        }
        if known {
            // Read to its end, a connection serves again.
            let _ = body.read(&mut buffer);
        }
        Ok(())
    }

    fn json<T: DeserializeOwned>(
        &self,
        revision: &str,
        path: &str,
        ask: &Ask,
    ) -> Result<T, HubError> {
        let mut response = self.ask(revision, path, ask)?;
        let bytes = response.body_mut().read_to_vec();
        let bytes = bytes.map_err(|error| self.context(revision).unanswered(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| self.odd(&plain(&error.to_string())))
    }

    /// Asks until there is an answer, or no hope of one.
    fn ask(&self, revision: &str, path: &str, ask: &Ask) -> Result<Response<Body>, HubError> {
        let uri = address(&format!("{}/{path}", self.endpoint))?;
        let mut tries = 0;
        loop {
            let answer = self.http.send(&uri, ask);
            if tries < self.hub.retries && may_pass(&answer) {
                self.wait(tries);
                tries += 1;
                continue;
            }
            let context = self.context(revision);
            return match answer {
                Ok(response) if response.status().is_success() => Ok(response),
                Ok(response) => Err(context.refused(response)),
                Err(error) => Err(context.unanswered(&error)),
            };
        }
    }

    /// Twice as long every time, and not when all others do.
    fn wait(&self, tries: usize) {
        let half = self.hub.retry_delay.saturating_mul(1 << tries.min(8)) / 2;
        thread::sleep(half + half.mul_f64(rand::random()));
    }

    fn context<'b>(&'b self, revision: &'b str) -> Context<'b> {
        Context { endpoint: &self.endpoint, http: &self.http, id: self.id, revision }
    }

    fn odd(&self, message: &str) -> HubError {
        HubError::Protocol { endpoint: self.endpoint.clone(), message: message.into() }
    }
}

fn address(address: &str) -> Result<Uri, HubError> {
    parse(address).ok_or_else(|| HubError::Settings(format!("'{}' is no address", plain(address))))
}

fn bearer(token: &str) -> Result<HeaderValue, InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether the next try may fare better. Where nothing came for a minute we do not wait for more.
fn may_pass(answer: &Result<Response<Body>, Error>) -> bool {
    match answer {
        Ok(response) => matches!(response.status().as_u16(), 408 | 429 | 500 | 502 | 503 | 504),
        Err(error) => matches!(
            error,
            Error::Io(_)
                | Error::HostNotFound
                | Error::ConnectionFailed
                | Error::ConnectProxyFailed(_)
        ),
    }
}
