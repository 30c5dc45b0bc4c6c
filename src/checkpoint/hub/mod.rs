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
mod remote;

use super::config::Config;
use super::index::Index;
use super::json::read_text;
use super::tensors::{INDEX, WEIGHTS};
use super::{CONFIG, Checkpoint, Source, TOKENIZER};
use crate::error::{Error, HubError, Result};
use cache::RepoCache;
use client::Client;
use id::{RepoId, is_commit, revision_name};
use remote::RemoteFile;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    /// Everything from the environment; `HF_HUB_OFFLINE` says whether to stay offline.
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
}

impl Checkpoint {
    /// Opens a directory, or fetches from the Hub if there is none and the name could be an id.
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
        let id = model.to_str().filter(|id| !model.exists() && RepoId::parse(id).is_ok());
        match (id, revision) {
            (Some(id), _) => Self::fetch(id, revision, hub, progress),
            (None, Some(revision)) if model.is_dir() => Err(Error::Input(format!(
                "{} is a directory and has no revision '{revision}'; only a repository on the Hub has",
                model.display()
            ))),
            (None, _) => Self::open(model),
        }
    }

    /// Opens a repository of the Hugging Face Hub, `org/name`, at a branch, tag or commit (`main`
    /// if none is given), and first fetches what the cache lacks: `config.json`, safetensors and
    /// `tokenizer.json`, nothing else. An interrupted download goes on where it broke off.
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
        let refused = |reason| Error::Hub { id: id.into(), reason };
        let repo = RepoId::parse(id).map_err(refused)?;
        let revision = revision_name(revision).map_err(refused)?;
        match fetch(&repo, revision, hub, &mut progress) {
            Ok(Snapshot { dir, commit }) => {
                Self::open_as(Source::Hub { id: id.into(), commit }, &dir)
            }
            Err(Failure::Hub(reason)) => Err(refused(reason)),
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
}

type Progress<'a> = &'a mut dyn FnMut(u64, u64);

fn fetch(
    id: &RepoId,
    revision: &str,
    hub: &Hub,
    progress: Progress,
) -> std::result::Result<Snapshot, Failure> {
    let dir = hub.cache.clone().unwrap_or_else(environment::cache);
    let cache = RepoCache::new(&dir, id);
    let here = |commit: String| Snapshot { dir: cache.snapshot(&commit), commit };
    let cached = cached(&cache, revision);
    if hub.offline {
        return cached.map(here).map_err(|file| HubError::NotCached { file, cache: dir }.into());
    }
    // Files of a commit never change. A checkpoint may lack a tokenizer, but only the hub knows.
    if let Ok(commit) = &cached
        && is_commit(revision)
        && cache.has(commit, TOKENIZER)
    {
        return Ok(here(commit.clone()));
    }
    let client = Client::new(id, hub)?;
    match (client.commit(revision), cached) {
        (Ok(commit), _) => {
            fetch_files(&client, &cache, &commit, progress)?;
            // Last, so that the name never leads to half a snapshot.
            cache.set_commit(revision, &commit)?;
            Ok(here(commit))
        }
        // Without a network what is cached will do; the report names its commit.
        (Err(HubError::Unreachable { .. } | HubError::Server { status: 500.., .. }), Ok(old)) => {
            Ok(here(old))
        }
        (Err(error), _) => Err(error.into()),
    }
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
    commit: &str,
    progress: Progress,
) -> std::result::Result<(), Failure> {
    let mut files = client.files(commit, &[CONFIG, TOKENIZER, WEIGHTS, INDEX])?;
    let mut take = |name: &str| files.remove(name).ok_or(HubError::MissingFile(name.into()));

    let config = client.fetch(cache, commit, &take(CONFIG)?, &mut |_| {})?;
    Config::parse(&read_text(&config)?, &config)?;

    let mut wanted: Vec<RemoteFile> = take(TOKENIZER).into_iter().collect();
    match take(WEIGHTS) {
        Ok(weights) => wanted.push(weights),
        Err(no_weights) => {
            let index = take(INDEX).map_err(|_| no_weights)?;
            let index = client.fetch(cache, commit, &index, &mut |_| {})?;
            let shards = shards(&index)?;
            let names: Vec<&str> = shards.iter().map(String::as_str).collect();
            let mut found = client.files(commit, &names)?;
            for shard in names {
                wanted.push(found.remove(shard).ok_or(HubError::MissingFile(shard.into()))?);
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
