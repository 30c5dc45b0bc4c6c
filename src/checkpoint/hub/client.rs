//! Questions to the hub, and files from it.

use super::super::CONFIG;
use super::address::{parse, segment};
use super::cache::RepoCache;
use super::failure::{Context, Refusal, plain, reason, text};
use super::http::{Ask, Http};
use super::id::{RepoId, is_commit};
use super::part::Part;
use super::reference::shown;
use super::remote::RemoteFile;
use super::{Hub, environment};
use crate::error::HubError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;
use std::thread;
use ureq::http::header::{HeaderValue, InvalidHeaderValue};
use ureq::http::{Response, Uri};
use ureq::{Body, Error};

/// What an answer may have at most, in bytes. Lists of a hundred thousand files have half of it.
const MAX_ANSWER: u64 = 16 << 20;

/// A repository on a hub.
pub(super) struct Client<'a> {
    id: &'a RepoId,
    hub: &'a Hub,
    endpoint: String,
    /// The endpoint without what may be secret, for messages.
    name: String,
    http: Http,
}

/// A revision of the repository.
pub(super) struct Revision {
    pub(super) commit: String,
    /// The names of its files, if the hub lists them.
    pub(super) files: Option<Vec<String>>,
}

/// What the hub says of a file in the headers of its answer.
#[derive(Default)]
struct Headers {
    commit: Option<String>,
    size: Option<u64>,
    /// The SHA-256, or git's hash, or what a mirror calls it by.
    tag: Option<String>,
}

impl<'a> Client<'a> {
    /// Reads the environment for what the settings leave open. Makes no request.
    pub(super) fn new(id: &'a RepoId, hub: &'a Hub) -> Result<Self, HubError> {
        let endpoint = hub.endpoint()?;
        let uri = address(&endpoint)?;
        let name = shown(&endpoint);
        let token = hub.token.clone().map_or_else(environment::token, |token| Ok(Some(token)))?;
        let token = token.unwrap_or_default();
        let token = (!token.trim().is_empty()).then(|| bearer(token.trim())).transpose();
        let token = token.map_err(|_| HubError::Unauthorized {
            endpoint: name.clone(),
            message: "yours has characters that no token has".into(),
        })?;
        let http = Http::new(&uri, token)?;
        Ok(Self { id, hub, endpoint, name, http })
    }

    /// The commit that a revision is at now.
    pub(super) fn revision(&self, revision: &str) -> Result<Revision, HubError> {
        #[derive(Deserialize)]
        struct Answer {
            sha: Option<String>,
            #[serde(default)]
            siblings: Value,
        }
        let path = format!("api/{}", self.id.at(revision).api_url());
        let refusal = match self.json::<Answer>(revision, &path, &Ask::Get) {
            Ok(Answer { sha: Some(commit), siblings }) if is_commit(&commit) => {
                let files = siblings.as_array().into_iter().flatten();
                let files = files.filter_map(|file| Some(file["rfilename"].as_str()?.to_string()));
                let files = Some(files.collect()).filter(|files: &Vec<_>| !files.is_empty());
                return Ok(Revision { commit, files });
            }
            Ok(_) => Refusal::odd(&self.name, "no commit hash"),
            Err(refusal) => refusal,
        };
        let Some(answer) = &refusal.no_route else { return Err(refusal.error) };
        // Files tell their commit.
        let commit = match self.headers(revision, CONFIG) {
            Ok(Headers { commit: Some(commit), .. }) => commit,
            Ok(_) if is_commit(revision) => revision.into(),
            Ok(_) if !matches!(refusal.error, HubError::Protocol { .. }) => {
                return Err(self.odd(&format!(
                    "its /revision/ {answer}, and its files come without X-Repo-Commit; try a \
                     whole commit hash as revision"
                )));
            }
            Err(Refusal { no_route: None, error }) => return Err(error),
            _ => return Err(refusal.error),
        };
        Ok(Revision { commit, files: None })
    }

    /// Those of the files that the repository has at a commit.
    pub(super) fn files(
        &self,
        at: &Revision,
        names: &[&str],
    ) -> Result<HashMap<String, RemoteFile>, HubError> {
        #[derive(Deserialize)]
        #[serde(tag = "type", rename_all = "lowercase")]
        enum Entry {
            File {
                path: String,
                size: u64,
                #[serde(default)]
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
        let repo = self.id.at(&at.commit);
        let path = format!("api/models/{}/paths-info/{}", repo.url(), repo.url_revision());
        let ask = Ask::Post(json!({ "paths": names }).to_string());
        let entries = match self.json::<Vec<Entry>>(&at.commit, &path, &ask) {
            Ok(entries) => entries,
            Err(Refusal { no_route: Some(answer), .. }) => {
                return self.files_one_by_one(at, names, &answer);
            }
            Err(refusal) => return Err(refusal.error),
        };
        let file = |entry| {
            let Entry::File { path: name, size, oid, lfs } = entry else { return None };
            let tag = lfs.map_or(oid, |lfs| lfs.oid);
            Some((name.clone(), remote(&at.commit, &name, size, &tag)))
        };
        Ok(entries.into_iter().filter_map(file).collect())
    }

    /// For mirrors that have no such list; `answer` is what came in its place.
    fn files_one_by_one(
        &self,
        at: &Revision,
        names: &[&str],
        answer: &str,
    ) -> Result<HashMap<String, RemoteFile>, HubError> {
        let listed = |name: &str| at.files.as_ref().is_none_or(|f| f.iter().any(|f| f == name));
        let (mut files, mut lost) = (HashMap::new(), None);
        for name in names.iter().filter(|name| listed(name)) {
            match self.headers(&at.commit, name) {
                Ok(Headers { size: Some(size), tag, .. }) => {
                    let file = remote(&at.commit, name, size, &tag.unwrap_or_default());
                    files.insert(name.to_string(), file);
                }
                Ok(_) => return Err(self.odd(&format!("it does not say the size of {name}"))),
                Err(Refusal { error: HubError::MissingFile { .. }, .. }) => {}
                Err(Refusal { error: HubError::NotFound { .. }, no_route: Some(_) }) => {
                    lost.get_or_insert(name);
                }
                Err(refusal) => return Err(refusal.error),
            }
        }
        match lost {
            Some(name) if files.is_empty() => Err(self.odd(&format!(
                "its paths-info {answer}, and it has no file {name}, either, as a mirror would"
            ))),
            _ => Ok(files),
        }
    }

    /// What the headers of a file say.
    fn headers(&self, revision: &str, name: &str) -> Result<Headers, Refusal> {
        match self.headers_by(revision, name, &Ask::Head) {
            Ok(headers) if headers.size.is_some() => return Ok(headers),
            Ok(_) | Err(Refusal { no_route: Some(_), .. }) => {}
            // A store may take its signed addresses for GET alone.
            Err(Refusal { error: HubError::Server { status: ..500, .. }, .. }) => {}
            Err(refusal) => return Err(refusal),
        }
        // Not every server knows HEAD. Of the file itself nothing is read here.
        self.headers_by(revision, name, &Ask::File(None))
    }

    fn headers_by(&self, revision: &str, name: &str, ask: &Ask) -> Result<Headers, Refusal> {
        let is_head = matches!(ask, Ask::Head);
        let mut seen = Headers::default();
        let (mut linked, mut etag) = (None, None);
        // The hub says all of a big file when it redirects to where that lies.
        let mut see = |response: &Response<Body>| {
            let header = |name| text(response, name).map(str::trim);
            let commit = header("X-Repo-Commit").filter(|commit| is_commit(commit));
            if commit.is_some() || self.http.is_of_hub(response) {
                etag = header("ETag").map(opaque).or(etag.take());
            }
            seen.commit = seen.commit.take().or(commit.map(String::from));
            seen.size = seen.size.or_else(|| header("X-Linked-Size")?.parse().ok());
            linked = linked.take().or(header("X-Linked-ETag").map(opaque));
            !(is_head && response.status().is_redirection() && seen.size.is_some())
        };
        let response = self.ask(revision, &self.resolve(revision, name), ask, &mut see)?;
        if text(&response, "Content-Type").is_some_and(|kind| kind.contains("text/html")) {
            let page = format!("a web page in place of {name}");
            return Err(Refusal::odd(&self.name, &page));
        }
        let length = || text(&response, "Content-Length")?.trim().parse().ok();
        let plain = text(&response, "Content-Encoding").is_none_or(|coding| coding == "identity");
        // Some servers answer HEAD as if the file were empty.
        let length = length().filter(|len| plain && !(is_head && *len == 0));
        Ok(Headers { size: seen.size.or(length), tag: linked.or(etag), ..seen })
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
        let lock = cache.lock(file)?;
        // Another process may have been at it while we waited.
        if let Some(path) = cache.find(commit, file)? {
            progress(file.size);
            return Ok(path);
        }
        let mut part = cache.part(file, lock)?;
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
        let path = self.resolve(commit, &file.name);
        let mut response = loop {
            let range = (part.len() > 0).then_some(part.len()..file.size);
            let response = self.ask(commit, &path, &Ask::File(range), &mut |_| true)?;
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
                Ok(len) if len as u64 > file.size - part.len() => {
                    part.restart()?;
                    let message = format!("more than the {} bytes that are listed", file.size);
                    return Err(HubError::Damaged { file: file.name.clone(), message });
                }
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

    /// Where a file is.
    fn resolve(&self, revision: &str, name: &str) -> String {
        let repo = self.id.at(revision);
        format!("{}/resolve/{}/{}", repo.url(), repo.url_revision(), segment(name))
    }

    /// An answer in JSON, asked for again if it breaks off.
    fn json<T: DeserializeOwned>(
        &self,
        revision: &str,
        path: &str,
        ask: &Ask,
    ) -> Result<T, Refusal> {
        let odd = |message: &str| Refusal::odd(&self.name, message);
        let mut tries = 0;
        loop {
            let mut response = self.ask(revision, path, ask, &mut |_| true)?;
            let whole = response.body().content_length().is_some();
            let broken = match response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec() {
                Ok(bytes) if bytes.is_empty() && whole => return Err(odd("an empty answer")),
                Ok(bytes) => match serde_json::from_slice(&bytes) {
                    Ok(answer) => return Ok(answer),
                    // Without a length, the end of the connection looks like that of the answer.
                    Err(error) if error.is_eof() => HubError::Unreachable {
                        endpoint: self.name.clone(),
                        message: "its answer breaks off".into(),
                    },
                    Err(error) => return Err(odd(&plain(&error.to_string()))),
                },
                Err(Error::BodyExceedsLimit(_)) => {
                    return Err(self.odd(&format!("more than {MAX_ANSWER} bytes of JSON")).into());
                }
                // Where nothing came for a minute we do not wait for more.
                Err(error @ Error::Timeout(_)) => {
                    return Err(self.context(revision).unanswered(&error).into());
                }
                Err(error) => self.context(revision).unanswered(&error),
            };
            if tries == self.hub.retries {
                return Err(broken.into());
            }
            self.wait(tries);
            tries += 1;
        }
    }

    /// Asks until there is an answer, or no hope of one. `see` as in [`Http::send`].
    fn ask(
        &self,
        revision: &str,
        path: &str,
        ask: &Ask,
        see: &mut dyn FnMut(&Response<Body>) -> bool,
    ) -> Result<Response<Body>, Refusal> {
        let uri = address(&format!("{}/{path}", self.endpoint))?;
        let mut tries = 0;
        loop {
            let answer = self.http.send(&uri, ask, see);
            if tries < self.hub.retries && may_pass(&answer) {
                self.wait(tries);
                tries += 1;
                continue;
            }
            let context = self.context(revision);
            return match answer {
                Ok(response) if response.status().is_success() => Ok(response),
                Ok(response) if response.status().is_redirection() && matches!(ask, Ask::Head) => {
                    Ok(response)
                }
                Ok(response) => Err(context.refused(response)),
                Err(error) => Err(context.unanswered(&error).into()),
            };
        }
    }

    /// Twice as long every time, and not when all others do.
    fn wait(&self, tries: usize) {
        let half = self.hub.retry_delay.saturating_mul(1 << tries.min(8)) / 2;
        thread::sleep(half + half.mul_f64(rand::random()));
    }

    fn context<'b>(&'b self, revision: &'b str) -> Context<'b> {
        Context { endpoint: &self.name, http: &self.http, id: self.id, revision }
    }

    pub(super) fn odd(&self, message: &str) -> HubError {
        Refusal::odd(&self.name, message).error
    }
}

fn address(address: &str) -> Result<Uri, HubError> {
    parse(address).ok_or_else(|| {
        HubError::Settings(format!(
            "'{}' is no address that begins with https:// or http://",
            plain(address)
        ))
    })
}

/// A tag that is no hash may be anything.
fn remote(commit: &str, name: &str, size: u64, tag: &str) -> RemoteFile {
    let hashed = RemoteFile::hashed(name, size, tag);
    hashed.unwrap_or_else(|| RemoteFile::tagged(commit, name, size, tag))
}

/// What stands in a tag, be it a weak one.
fn opaque(etag: &str) -> String {
    etag.trim_start_matches("W/").trim_matches('"').into()
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
