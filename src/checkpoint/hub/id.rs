//! Names that become parts of addresses and of paths.

use super::address::segment;
use crate::error::HubError;
use hf_hub::{Repo, RepoType};
use std::fmt;

/// `org/name`.
pub(super) struct RepoId(String);

impl RepoId {
    pub(super) fn parse(id: &str) -> Result<Self, HubError> {
        match id.split_once('/') {
            Some((owner, name)) if is_name(owner) && is_name(name) => Ok(Self(id.into())),
            _ => Err(HubError::InvalidId),
        }
    }

    /// Its directory in the cache. Unique, since names have no `--`.
    pub(super) fn folder(&self) -> String {
        Repo::model(self.0.clone()).folder_name()
    }

    /// As addresses have it.
    pub(super) fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.0.clone(), RepoType::Model, segment(revision))
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The Hub's own rules, which leave nothing that a path or an address could trip over.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=96).contains(&name.len())
        && name.chars().all(plain)
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.'])
        && !name.contains("--")
        && !name.contains("..")
}

/// The name of a branch, tag or commit, `main` by default. It becomes a path in the cache, so the
/// parts that git forbids are checked for here.
pub(super) fn revision_name(revision: Option<&str>) -> Result<&str, HubError> {
    let name = revision.unwrap_or("main");
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.');
    let odd = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    if name.len() <= 200 && !name.contains(odd) && name.split('/').all(part) {
        Ok(name)
    } else {
        Err(HubError::InvalidRevision(name.escape_debug().to_string()))
    }
}

/// Whether it is a whole git hash, which no branch is called.
pub(super) fn is_commit(revision: &str) -> bool {
    is_hex(revision, 40)
}

/// Whether it is a hash of so many digits.
pub(super) fn is_hex(hash: &str, digits: usize) -> bool {
    hash.len() == digits && hash.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids() {
        for id in ["google/gemma-3-270m", "a/b", "org_1/Name.v2"] {
            assert_eq!(RepoId::parse(id).ok().unwrap().to_string(), id);
        }
        for id in [
            "", "gemma", "/b", "a/", "a/b/c", "../b", "a/..", "./b", "~/b", "a/.b", "a/b.", "-a/b",
            "a--b/c", "a/b c", "a/b?x", "a/b%2f", "a\\b/c", "a/ü", "a/b\n",
        ] {
            assert!(RepoId::parse(id).is_err(), "{id}");
        }
    }

    #[test]
    fn revisions() {
        assert_eq!(revision_name(None), Ok("main"));
        for name in ["v1.0", "refs/pr/1", "feature/x+y"] {
            assert_eq!(revision_name(Some(name)), Ok(name));
        }
        for name in ["", "..", "a/../b", "/a", "a/", "a//b", ".a", "a b", "a\n", "a:b", "a\\b"] {
            assert!(revision_name(Some(name)).is_err(), "{name}");
        }
    }
}
