//! Questions to the hub, and files from it.

use super::Hub;
use super::cache::RepoCache;
use super::failure::{Context, root_cause};
use super::id::{RepoId, is_commit, is_hex};
use super::part::Part;
use super::remote::RemoteFile;
use crate::error::HubError;
use futures_util::StreamExt;
use hf_hub::repository::{HFRepository, RepoTreeEntry, RepoTypeModel};
use hf_hub::{HFClient, HFError};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// How long nothing may arrive before a connection counts as broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// A repository on a hub.
pub(super) struct Client<'a> {
    id: &'a RepoId,
    hub: &'a Hub,
    client: HFClient,
    repo: HFRepository<RepoTypeModel>,
    runtime: Runtime,
}

impl<'a> Client<'a> {
    /// Reads the environment for what the settings leave open. Makes no request.
    pub(super) fn new(id: &'a RepoId, hub: &'a Hub) -> Result<Self, HubError> {
        let mut builder = HFClient::builder()
            .user_agent(concat!("gemma-mlp/", env!("CARGO_PKG_VERSION")))
            .retry_max_attempts(hub.retries)
            .retry_base_delay(hub.retry_delay / 2); // it waits twice that first
        if let Some(endpoint) = &hub.endpoint {
            builder = builder.endpoint(endpoint);
        }
        if let Some(token) = &hub.token {
            builder = builder.token(token);
        }
        let client = builder.build().map_err(|e| HubError::Settings(root_cause(&e)))?;
        let repo = client.model(&id.owner, &id.name);
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| HubError::Settings(e.to_string()))?;
        Ok(Self { id, hub, client, repo, runtime })
    }

    pub(super) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// The commit that a revision is at now.
    pub(super) async fn commit(&self, revision: &str) -> Result<String, HubError> {
        let info = self.ask(revision, self.repo.info().revision(revision).send()).await?;
        info.sha.filter(|commit| is_commit(commit)).ok_or_else(|| self.odd("no commit hash"))
    }

    /// SHA-256 of the files that lie outside git, by name.
    ///
    /// The listing has them under a name that hf-hub 1.0 does not read. With `blobs=true` the
    /// repository's description has them under one that it does, but it has no setting for that;
    /// it takes the end of the address as it is, though. Where this fails sizes are checked alone.
    pub(super) async fn sha256(&self, commit: &str) -> HashMap<String, String> {
        let address = format!("{}/revision/{commit}?blobs=true", self.id.name);
        let description = self.client.model(&self.id.owner, address);
        let siblings = match self.ask(commit, description.info().send()).await {
            Ok(info) => info.siblings.unwrap_or_default(),
            Err(_) => vec![],
        };
        let sums = siblings.into_iter();
        sums.filter_map(|file| Some((file.rfilename, file.lfs?.sha256?))).collect()
    }

    /// Those of the files that the repository has.
    pub(super) async fn files(
        &self,
        commit: &str,
        names: &[&str],
        sha256: &HashMap<String, String>,
    ) -> Result<HashMap<String, RemoteFile>, HubError> {
        let paths = names.iter().map(|name| name.to_string()).collect();
        let request = self.repo.get_paths_info().paths(paths).revision(commit).send();
        let mut files = HashMap::new();
        for entry in self.ask(commit, request).await? {
            let RepoTreeEntry::File { oid, size, path: name, .. } = entry else { continue };
            let checksum = sha256.get(&name).cloned().unwrap_or(oid);
            // It becomes the name of a file.
            if !is_hex(&checksum, 64) && !is_hex(&checksum, 40) {
                return Err(self.odd("a file without a checksum"));
            }
            files.insert(name.clone(), RemoteFile { name, size, checksum });
        }
        Ok(files)
    }

    /// Brings a file into the cache if it is not there. `progress` is told its bytes.
    pub(super) async fn fetch(
        &self,
        cache: &RepoCache,
        commit: &str,
        file: &RemoteFile,
        progress: &mut (dyn FnMut(u64) + Send),
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
            while let Err(error) = self.append(commit, file, &mut part, progress).await {
                if part.len() > furthest {
                    (tries, furthest) = (0, part.len());
                }
                if tries == self.hub.retries || !matches!(error, HubError::Interrupted { .. }) {
                    return Err(error);
                }
                tokio::time::sleep(self.hub.retry_delay * (1 << tries.min(8))).await;
                tries += 1;
            }
            part.finish(file)?;
        }
        let found = cache.find(commit, file)?;
        found.ok_or_else(|| self.odd(&format!("{} vanished from the cache", file.name)))
    }

    /// Adds what is missing of a file.
    async fn append(
        &self,
        commit: &str,
        file: &RemoteFile,
        part: &mut Part,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), HubError> {
        progress(part.len());
        if part.len() == file.size {
            return Ok(());
        }
        let mut stream = loop {
            let range = (part.len() > 0).then_some(part.len()..file.size);
            let request = self.repo.download_file_stream().filename(&file.name).revision(commit);
            let (len, stream) = self.ask(commit, request.maybe_range(range).send()).await?;
            match len {
                Some(len) if len == file.size - part.len() => break stream,
                None if part.len() == 0 => break stream,
                // Not the range that was asked for: some servers send everything, or say so.
                _ if part.len() > 0 => part.restart()?,
                _ => return Err(self.odd(&format!("{} has two sizes", file.name))),
            }
        };
        let broken = |part: &Part, message: String| HubError::Interrupted {
            file: file.name.clone(),
            done: part.len(),
            size: file.size,
            message,
        };
        while part.len() < file.size {
            match tokio::time::timeout(PATIENCE, stream.next()).await {
                Err(_) => return Err(broken(part, silence())),
                Ok(None) => return Err(broken(part, "the server closed it".into())),
                Ok(Some(Err(e))) => return Err(broken(part, root_cause(&e))),
                Ok(Some(Ok(bytes))) => part.push(&bytes)?,
            }
            progress(part.len());
        }
        Ok(())
    }

    async fn ask<T>(
        &self,
        revision: &str,
        request: impl Future<Output = Result<T, HFError>>,
    ) -> Result<T, HubError> {
        let context = Context { endpoint: self.client.endpoint(), id: self.id, revision };
        match tokio::time::timeout(PATIENCE, request).await {
            Ok(answer) => answer.map_err(|e| context.explain(e)),
            Err(_) => Err(context.unreachable(silence())),
        }
    }

    fn odd(&self, message: &str) -> HubError {
        HubError::Protocol { endpoint: self.client.endpoint().into(), message: message.into() }
    }
}

fn silence() -> String {
    format!("nothing for {} s", PATIENCE.as_secs())
}
