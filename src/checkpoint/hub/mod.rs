//! Checkpoints from the Hugging Face Hub, kept in the cache that its own tools use.
//!
//! hf-hub knows how repositories are called in addresses and in the cache, and brings ureq, which
//! asks. Downloads are ours: hf-hub's own know no sizes and no checksums, and take whatever arrives
//! for the file, be it short or an error page.

mod address;
mod cache;
mod client;
mod environment;
mod failure;
mod http;
mod id;
mod part;
mod proxy;
mod reference;
mod remote;
pub(crate) mod server;

use super::config::Config;
use super::json::read_text;
use super::tensors::index::Index;
use super::tensors::{INDEX, WEIGHTS};
use super::{CONFIG, Checkpoint, Remark, RemarkKind, Source, TOKENIZER};
use crate::error::{Error, HubError, Result};
use cache::RepoCache;
use client::{Client, Revision};
use id::{RepoId, is_commit};
use reference::{Reference, shown};
use remote::{RemoteFile, instead};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Not every repository has these.
const OPTIONAL: [&str; 3] = ["generation_config.json", "tokenizer_config.json", TOKENIZER];

/// What a file in JSON may have at most, in bytes; the largest tokenizers have half of it.
const MAX_JSON: u64 = 64 << 20;

/// Where checkpoints are fetched from, kept, and how patiently. What is `None` comes from the
/// variables that all of Hugging Face's tools read.
#[derive(Clone)]
pub struct Hub {
    /// The hub's address. Otherwise `HF_ENDPOINT`, or `https://huggingface.co`.
    pub endpoint: Option<String>,
    /// The token. Otherwise `HF_TOKEN`, or the file that signing in has written.
    pub token: Option<String>,
    /// The cache. Otherwise `HF_HUB_CACHE`, or `hub` in `HF_HOME`.
    pub cache: Option<PathBuf>,
    /// Use the cache alone and make no request.
    pub offline: bool,
    /// How often a request or an interrupted file is tried again.
    pub retries: usize,
    /// About how long to wait before the first of these; it doubles from then on.
    pub retry_delay: Duration,
}

impl Hub {
    /// Everything from the environment; `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE` says whether to
    /// stay offline.
    pub fn from_env() -> Self {
        Self {
            endpoint: None,
            token: None,
            cache: None,
            offline: environment::offline(),
            retries: 4,
            retry_delay: Duration::from_millis(200),
        }
    }

    /// Without a slash at its end.
    fn endpoint(&self) -> std::result::Result<String, HubError> {
        let endpoint = self.endpoint.clone().map_or_else(environment::endpoint, Ok)?;
        Ok(endpoint.trim().trim_end_matches('/').into())
    }

    /// The repository that is meant, if it is one.
    fn reference(&self, text: &str) -> Result<Option<Reference>> {
        // An endpoint that cannot be read fails as soon as it is asked.
        let reference = Reference::parse(text, &self.endpoint().unwrap_or_default());
        reference.map_err(|reason| Error::Hub { id: shown(text), reason })
    }
}

impl Checkpoint {
    /// Opens a directory, or fetches from the Hub if there is none and the name could be that of a
    /// repository, in any of the forms that [`Self::fetch`] takes.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::fetch`]; a revision of a directory.
    pub fn open_or_fetch(
        model: impl AsRef<Path>,
        revision: Option<&str>,
        hub: &Hub,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self> {
        let model = model.as_ref();
        if !model.exists()
            && let Some(text) = model.to_str()
            && hub.reference(text)?.is_some()
        {
            return Self::fetch(text, revision, hub, progress);
        }
        match revision {
            Some(revision) if model.is_dir() => Err(Error::Input(format!(
                "{} is a directory and has no revision '{revision}'; only a repository on the Hub has",
                model.display()
            ))),
            _ => Self::open(model),
        }
    }

    /// Opens a repository of the Hugging Face Hub, `org/name`, at a branch, tag or commit (`main`
    /// if none is given), and first fetches what the cache lacks: `config.json`, safetensors,
    /// `tokenizer.json`, and, where there are such, `generation_config.json` and
    /// `tokenizer_config.json`. An interrupted download goes on where it broke off.
    ///
    /// The repository may also be named as `org/name@revision`, as `hf://org/name`, or by the
    /// address of its page on the Hub or on the endpoint.
    ///
    /// A commit that is in the cache is opened without a request; what other files the repository
    /// has is not known then. If the hub cannot be reached, or the cache cannot be written, what is
    /// cached will do, and a remark says so.
    ///
    /// `progress` is called with the bytes that are here and those of all files together.
    ///
    /// ```no_run
    /// use gemma_mlp::{Checkpoint, checkpoint::Hub};
    /// let checkpoint =
    ///     Checkpoint::fetch("google/gemma-3-270m", None, &Hub::from_env(), |_, _| {})?;
    /// println!("{}", checkpoint.source()); // google/gemma-3-270m (revision 9b0cfec8…)
    /// # Ok::<(), gemma_mlp::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Hub`] if it cannot be fetched; then as [`Self::open`].
    pub fn fetch(
        id: &str,
        revision: Option<&str>,
        hub: &Hub,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Self> {
        let refused = |reason| Error::Hub { id: shown(id), reason };
        let reference = hub.reference(id)?.ok_or_else(|| refused(HubError::InvalidId))?;
        let revision = reference.revision(revision).map_err(refused)?;
        let id = reference.id;
        match fetch(&id, &revision, hub, &mut progress) {
            Ok(Snapshot { dir, commit, remark }) => {
                let mut checkpoint =
                    Self::open_as(Source::Hub { id: id.to_string(), commit }, &dir)?;
                checkpoint.remarks.extend(remark);
                Ok(checkpoint)
            }
            Err(Failure::Hub(reason)) => Err(Error::Hub { id: id.to_string(), reason }),
            Err(Failure::Checkpoint(error)) => Err(error),
        }
    }
}

/// What keeps a fetch from succeeding: the hub, or what has been fetched.
enum Failure {
    Hub(HubError),
    Checkpoint(Error),
}

impl From<HubError> for Failure {
    fn from(error: HubError) -> Self {
        Self::Hub(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Checkpoint(error)
    }
}

/// A revision in the cache, with everything that is needed.
struct Snapshot {
    dir: PathBuf,
    commit: String,
    /// Why it is not what the hub has now.
    remark: Option<Remark>,
}

type Progress<'a> = &'a mut dyn FnMut(u64, u64);

fn fetch(
    id: &RepoId,
    revision: &str,
    hub: &Hub,
    progress: Progress,
) -> std::result::Result<Snapshot, Failure> {
    let dir = hub.cache.clone().map_or_else(environment::cache, Ok)?;
    let cache = RepoCache::new(&dir, id);
    let here = |commit: String, remark| Snapshot { dir: cache.snapshot(&commit), commit, remark };
    let cached = cached(&cache, revision);
    if hub.offline {
        let commit = cached.map_err(|file| HubError::NotCached { file, cache: dir })?;
        return Ok(here(commit, None));
    }
    // Files of a commit never change. A checkpoint may lack a tokenizer, but only the hub knows.
    if let Ok(commit) = &cached
        && is_commit(revision)
        && cache.has(commit, TOKENIZER)
    {
        return Ok(here(commit.clone(), None));
    }
    let client = Client::new(id, hub)?;
    let mut newest = None;
    let fetched = client.revision(revision).map_err(Failure::from).and_then(|found| {
        newest = Some(found.commit.clone());
        fetch_files(&client, &cache, &found, progress).map(|()| found.commit)
    });
    match (fetched, cached) {
        (Ok(commit), _) => {
            // Last, so that the name never leads to half a snapshot. All files are here, so that a
            // cache that takes none of it keeps nothing from running.
            let _ = cache.set_commit(revision, &commit);
            Ok(here(commit, None))
        }
        (Err(Failure::Hub(error)), Ok(old)) => {
            let remark = outdated(revision, &old, newest.as_deref(), &error).ok_or(error)?;
            Ok(here(old, Some(remark)))
        }
        (Err(error), _) => Err(error),
    }
}

/// What to say if the cached commit is used all the same: without a network, and where the cache
/// cannot be written, it will do.
fn outdated(
    revision: &str,
    cached: &str,
    newest: Option<&str>,
    error: &HubError,
) -> Option<Remark> {
    let reason = match error {
        HubError::Unreachable { endpoint, message } => {
            format!("{endpoint} cannot be reached ({message})")
        }
        HubError::Server { endpoint, status: status @ 500.., .. } => {
            format!("{endpoint} answers {status}")
        }
        HubError::RateLimited { endpoint, .. } => format!("{endpoint} has had too many requests"),
        HubError::Cache { path, message } => {
            format!("{} cannot be written ({message})", path.display())
        }
        // What is newer may be worth making room for.
        HubError::NoSpace { path, message } if newest == Some(cached) => {
            format!("{} cannot be written ({message})", path.display())
        }
        _ => return None,
    };
    let used = format!("what the cache has of {revision} is used, commit {cached}, since {reason}");
    Some(match newest {
        Some(newest) if newest != cached => Remark::warning(
            RemarkKind::Chosen,
            format!("{used}; {revision} is now at commit {newest}"),
        ),
        _ => Remark::note(RemarkKind::Chosen, used),
    })
}

/// The commit that a revision was at, if all of it is in the cache, or else what is not.
fn cached(cache: &RepoCache, revision: &str) -> std::result::Result<String, String> {
    let commit = cache.commit(revision).ok_or_else(|| format!("revision {revision}"))?;
    match missing(cache, &commit) {
        None => Ok(commit),
        Some(file) => Err(file),
    }
}

/// The first file that a snapshot lacks, as far as the cache can tell.
fn missing(cache: &RepoCache, commit: &str) -> Option<String> {
    let lacks = |name: &str| !cache.has(commit, name);
    if lacks(CONFIG) {
        return Some(CONFIG.into());
    }
    match (lacks(WEIGHTS), lacks(INDEX)) {
        (false, _) => None,
        (true, true) => Some(WEIGHTS.into()),
        // A malformed index is reported when it is opened.
        (true, false) => {
            shards(&cache.path(commit, INDEX)).unwrap_or_default().into_iter().find(|s| lacks(s))
        }
    }
}

fn shards(index: &Path) -> Result<BTreeSet<String>> {
    Ok(Index::read(index)?.files.into_iter().collect())
}

/// The small files first: they say whether the rest is worth fetching, and what it is.
fn fetch_files(
    client: &Client,
    cache: &RepoCache,
    at: &Revision,
    progress: Progress,
) -> std::result::Result<(), Failure> {
    let commit = &at.commit;
    let names = [&[CONFIG, WEIGHTS, INDEX], &OPTIONAL[..]].concat();
    let mut files = client.files(at, &names)?;
    let missing = |name: &str| HubError::MissingFile {
        file: name.into(),
        instead: at.files.as_deref().map(instead).unwrap_or_default(),
    };

    // Whoever lists more might fill the disk.
    let is_endless = |file: &&RemoteFile| file.name.ends_with(".json") && file.size > MAX_JSON;
    if let Some(RemoteFile { name, size, .. }) = files.values().find(is_endless) {
        return Err(client.odd(&format!("a {name} of {size} bytes")).into());
    }

    let config = files.remove(CONFIG).ok_or_else(|| missing(CONFIG))?;
    let config = client.fetch(cache, commit, &config, &mut |_| {})?;
    Config::parse(&read_text(&config)?, &config)?;

    let mut wanted: Vec<RemoteFile> =
        OPTIONAL.iter().filter_map(|name| files.remove(*name)).collect();
    match files.remove(WEIGHTS) {
        Some(weights) => wanted.push(weights),
        None => {
            let index = files.remove(INDEX).ok_or_else(|| missing(WEIGHTS))?;
            let index = client.fetch(cache, commit, &index, &mut |_| {})?;
            let shards = shards(&index)?;
            let names: Vec<&str> = shards.iter().map(String::as_str).collect();
            let mut found = client.files(at, &names)?;
            for shard in names {
                let lost = || HubError::MissingFile { file: shard.into(), instead: String::new() };
                wanted.push(found.remove(shard).ok_or_else(lost)?);
            }
        }
    }

    let total = wanted.iter().map(|file| file.size).sum();
    // All that is here at once, so that what follows is what this run fetches.
    let mut done: u64 = wanted.iter().map(|file| cache.here(commit, file)).sum();
    progress(done, total);
    for file in &wanted {
        let others = done.saturating_sub(cache.here(commit, file));
        client.fetch(cache, commit, file, &mut |here| progress(others + here, total))?;
        done = others + file.size;
    }
    Ok(())
}
