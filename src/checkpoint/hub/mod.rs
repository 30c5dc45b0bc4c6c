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
use super::gguf::parts;
use super::json::read_text;
use super::tensors::index::Index;
use super::tensors::{INDEX, WEIGHTS};
use super::tokenizer::{SETTINGS, TOKENIZER};
use super::{CONFIG, Checkpoint, Remark, RemarkKind, Source};
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
const OPTIONAL: [&str; 3] = ["generation_config.json", SETTINGS, TOKENIZER];

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
    /// Opens a directory or a GGUF file, or fetches from the Hub if there is none and the name could be that of
    /// a repository, in any of the forms that [`Self::fetch`] takes. With `file`, the GGUF file of that name in the
    /// directory or repository.
    ///
    /// # Errors
    /// As [`Self::open`] and [`Self::fetch`]; a revision of a directory; a file of what is no directory.
    pub fn open_or_fetch(
        model: impl AsRef<Path>,
        file: Option<&str>,
        revision: Option<&str>,
        hub: &Hub,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self> {
        let model = model.as_ref();
        if !model.exists()
            && let Some(text) = model.to_str()
            && hub.reference(text)?.is_some()
        {
            return Self::fetched(text, file, revision, hub, progress);
        }
        match (revision, file) {
            (Some(revision), _) if model.exists() => Err(Error::Input(format!(
                "{} is a {} and has no revision '{revision}'; only a repository on the Hub has",
                model.display(),
                if model.is_dir() { "directory" } else { "file" }
            ))),
            (_, Some(file)) if model.is_file() => Err(Error::Input(format!(
                "{} is a file, in which there is no file {file}; leave one out",
                model.display()
            ))),
            (_, Some(file)) => Self::open(model.join(file)),
            (_, None) => Self::open(model),
        }
    }

    /// Opens a repository of the Hugging Face Hub, `org/name`, at a branch, tag or commit (`main`
    /// if none is given), and first fetches what the cache lacks: `config.json`, safetensors,
    /// `tokenizer.json`, and, where there are such, `generation_config.json` and
    /// `tokenizer_config.json`. An interrupted download goes on where it broke off.
    ///
    /// The repository may also be named as `org/name@revision`, as `hf://org/name`, or by the
    /// address of its page on the Hub or on the endpoint. The address of a GGUF file is that file, as for
    /// [`Self::fetch_file`].
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
        progress: impl FnMut(u64, u64),
    ) -> Result<Self> {
        Self::fetched(id, None, revision, hub, progress)
    }

    /// As [`Self::fetch`], a GGUF file of a repository, with all parts of a split one, by whichever of them is
    /// named; and `tokenizer.json`, if there is one.
    ///
    /// # Errors
    /// As [`Self::fetch`]; a name that is not one of a GGUF file at the top of the repository.
    pub fn fetch_file(
        id: &str,
        file: &str,
        revision: Option<&str>,
        hub: &Hub,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self> {
        Self::fetched(id, Some(file), revision, hub, progress)
    }

    fn fetched(
        id: &str,
        file: Option<&str>,
        revision: Option<&str>,
        hub: &Hub,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Self> {
        let refused = |reason| Error::Hub { id: shown(id), reason };
        let reference = hub.reference(id)?.ok_or_else(|| refused(HubError::InvalidId))?;
        let revision = reference.revision(revision).map_err(refused)?;
        let file = reference.file(file).map_err(refused)?;
        let id = reference.id;
        let wanted = Wanted { revision: &revision, file: file.as_deref() };
        match fetch(&id, wanted, hub, &mut progress) {
            Ok(Snapshot { dir, commit, remark }) => {
                let mut checkpoint = match &file {
                    None => Self::open_as(Source::Hub { id: id.to_string(), commit }, &dir)?,
                    Some(file) => {
                        let id = format!("{id}/{file}");
                        Self::open_gguf(Source::Hub { id, commit }, &dir.join(file))?
                    }
                };
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

/// What is asked for of a repository.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    revision: &'a str,
    /// A GGUF file; `None` for the checkpoint in safetensors.
    file: Option<&'a str>,
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
    wanted: Wanted,
    hub: &Hub,
    progress: Progress,
) -> std::result::Result<Snapshot, Failure> {
    let Wanted { revision, file } = wanted;
    let dir = hub.cache.clone().map_or_else(environment::cache, Ok)?;
    let cache = RepoCache::new(&dir, id);
    let here = |commit: String, remark| Snapshot { dir: cache.snapshot(&commit), commit, remark };
    let cached = cached(&cache, wanted);
    if hub.offline {
        let commit = cached.map_err(|file| HubError::NotCached { file, cache: dir })?;
        return Ok(here(commit, None));
    }
    // Files of a commit never change. A checkpoint may lack a tokenizer, but only the hub knows.
    if let Ok(commit) = &cached
        && is_commit(revision)
        && (file.is_some() || cache.has(commit, TOKENIZER))
    {
        return Ok(here(commit.clone(), None));
    }
    let client = Client::new(id, hub)?;
    let mut newest = None;
    let fetched = client.revision(revision).map_err(Failure::from).and_then(|found| {
        newest = Some(found.commit.clone());
        match file {
            None => fetch_files(&client, &cache, &found, progress),
            Some(file) => fetch_gguf(&client, &cache, &found, file, progress),
        }
        .map(|()| found.commit)
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
fn cached(cache: &RepoCache, wanted: Wanted) -> std::result::Result<String, String> {
    let Wanted { revision, file } = wanted;
    let commit = cache.commit(revision).ok_or_else(|| format!("revision {revision}"))?;
    let missing = match file {
        None => missing(cache, &commit),
        Some(file) => parts::names(file).into_iter().find(|part| !cache.has(&commit, part)),
    };
    match missing {
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

    check_sizes(client, files.values())?;
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

    download(client, cache, commit, &wanted, progress)
}

/// A GGUF file with its other parts, and the tokenizer beside it, if there is one.
fn fetch_gguf(
    client: &Client,
    cache: &RepoCache,
    at: &Revision,
    file: &str,
    progress: Progress,
) -> std::result::Result<(), Failure> {
    let parts = parts::names(file);
    let beside = [TOKENIZER, SETTINGS];
    let names: Vec<&str> = parts.iter().map(String::as_str).chain(beside).collect();
    let mut files = client.files(at, &names)?;
    let mut wanted: Vec<RemoteFile> =
        beside.iter().filter_map(|name| files.remove(*name)).collect();
    for part in &parts {
        let lost = || {
            let others = at.files.as_deref().unwrap_or_default();
            let others = parts::models(others).into_iter().take(4).map(failure::plain);
            let others: Vec<_> = others.collect();
            let instead = if others.is_empty() {
                String::new()
            } else {
                format!("it has {}", others.join(", "))
            };
            HubError::NoFile { file: part.clone(), instead }
        };
        wanted.push(files.remove(part).ok_or_else(lost)?);
    }
    check_sizes(client, wanted.iter())?;
    download(client, cache, &at.commit, &wanted, progress)
}

/// Refuses files in JSON that are larger than any: whoever lists them might fill the disk.
fn check_sizes<'a>(
    client: &Client,
    files: impl IntoIterator<Item = &'a RemoteFile>,
) -> std::result::Result<(), HubError> {
    let is_endless = |file: &&RemoteFile| file.name.ends_with(".json") && file.size > MAX_JSON;
    match files.into_iter().find(is_endless) {
        Some(RemoteFile { name, size, .. }) => {
            Err(client.odd(&format!("a {name} of {size} bytes")))
        }
        None => Ok(()),
    }
}

fn download(
    client: &Client,
    cache: &RepoCache,
    commit: &str,
    wanted: &[RemoteFile],
    progress: Progress,
) -> std::result::Result<(), Failure> {
    let total = wanted.iter().map(|file| file.size).sum();
    // All that is here at once, so that what follows is what this run fetches.
    let mut done: u64 = wanted.iter().map(|file| cache.here(commit, file)).sum();
    progress(done, total);
    for file in wanted {
        let others = done.saturating_sub(cache.here(commit, file));
        client.fetch(cache, commit, file, &mut |here| progress(others + here, total))?;
        done = others + file.size;
    }
    Ok(())
}
