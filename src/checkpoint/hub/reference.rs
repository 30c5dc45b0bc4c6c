//! What users call a repository: its id, or an address as it is pasted.

use super::failure::plain;
use super::id::{RepoId, revision_name};
use super::remote::instead;
use crate::checkpoint::gguf::parts::EXTENSION;
use crate::error::HubError;
use percent_encoding::percent_decode_str;

/// A repository, at a revision if one is named.
pub(super) struct Reference {
    pub(super) id: RepoId,
    pub(super) revision: Option<String>,
    /// The GGUF file of it that is meant, if one is named.
    pub(super) file: Option<String>,
}

impl Reference {
    /// `org/name`, `org/name@revision`, `hf://…` or an address on the Hub or on the endpoint.
    /// `None` if it is nothing of this kind and may be a path.
    ///
    /// # Errors
    /// An address that leads to no repository of a model.
    pub(super) fn parse(text: &str, endpoint: &str) -> Result<Option<Self>, HubError> {
        if let Some((scheme, rest)) = text.split_once("://") {
            if scheme.eq_ignore_ascii_case("hf") {
                return protocol(rest).map(Some);
            }
            let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
            return match path_on_hub(authority, path, endpoint) {
                Some(path) => page(path).map(Some),
                None => Err(elsewhere(authority, endpoint)),
            };
        }
        let (authority, path) = match text.strip_prefix("git@").and_then(|ssh| ssh.split_once(':'))
        {
            Some(ssh) => ssh,
            None => text.split_at(text.find('/').unwrap_or(text.len())),
        };
        if let Some(path) = path_on_hub(authority, path, endpoint) {
            return page(path).map(Some);
        }
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let Ok(id) = RepoId::parse(id) else { return Ok(None) };
        let known = revision_name(revision).is_ok();
        let revision = revision.map(String::from);
        Ok(known.then_some(Self { id, revision, file: None }))
    }

    /// The revision to take, where another place may name one, too.
    pub(super) fn revision(&self, other: Option<&str>) -> Result<String, HubError> {
        let revision = either("revision", self.revision.as_deref(), other)?;
        Ok(revision_name(revision)?.into())
    }

    /// The file to take, where another place may name one, too; `None` for the checkpoint in safetensors.
    pub(super) fn file(&self, other: Option<&str>) -> Result<Option<String>, HubError> {
        let Some(name) = either("file", self.file.as_deref(), other)? else { return Ok(None) };
        let odd = name.contains(['/', '\\']) || name.contains(char::is_control);
        if odd || !name.ends_with(EXTENSION) || name.starts_with('.') {
            return Err(invalid(format!(
                "has no file '{}' that is read: pass the name of a GGUF file at the top of the repository, NAME{EXTENSION}",
                plain(name)
            )));
        }
        Ok(Some(name.into()))
    }
}

/// What is named in either of two places, or in both alike.
fn either<'a>(
    what: &str,
    named: Option<&'a str>,
    other: Option<&'a str>,
) -> Result<Option<&'a str>, HubError> {
    match (named, other) {
        (Some(named), Some(other)) if named != other => Err(invalid(format!(
            "names the {what} '{}', and '{}' is asked for; leave one out",
            plain(named),
            plain(other)
        ))),
        (named, other) => Ok(named.or(other)),
    }
}

/// As messages may show it: without what may be secret.
pub(super) fn shown(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return plain(text) };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    plain(&format!("{scheme}://{}{path}", host(authority)))
}

fn invalid(message: String) -> HubError {
    HubError::InvalidAddress(message)
}

fn elsewhere(authority: &str, endpoint: &str) -> HubError {
    let host = plain(host(authority));
    let hub = if endpoint.is_empty() { "the Hub".into() } else { shown(endpoint) };
    invalid(format!(
        "an address on {host}, and not on {hub}; pass org/name, and set HF_ENDPOINT if {host} \
         mirrors the Hub"
    ))
}

/// Without a name and password in front.
fn host(authority: &str) -> &str {
    authority.rsplit('@').next().unwrap_or_default()
}

/// The path below the Hub's address, or below the endpoint's.
fn path_on_hub<'a>(authority: &str, path: &'a str, endpoint: &str) -> Option<&'a str> {
    let name = |authority: &str| {
        let host = host(authority).to_ascii_lowercase();
        let default = host.strip_suffix(":443").or_else(|| host.strip_suffix(":80"));
        default.map(String::from).unwrap_or(host)
    };
    let asked = name(authority);
    let endpoint = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let (hub, below) = endpoint.split_at(endpoint.find('/').unwrap_or(endpoint.len()));
    if !hub.is_empty() && asked == name(hub) {
        let inner = path.strip_prefix(below);
        return inner.filter(|inner| inner.is_empty() || inner.starts_with('/')).or(Some(path));
    }
    ["huggingface.co", "www.huggingface.co", "hf.co"].contains(&asked.as_str()).then_some(path)
}

/// `[models/]org/name[@revision][/file]`
fn protocol(text: &str) -> Result<Reference, HubError> {
    let (org, rest) = kind_of_model(text)?;
    let (name, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let Some((name, revision)) = name.split_once('@') else {
        return repository(org, name, None, file(rest)?);
    };
    let (revision, path) = split_revision(&format!("{revision}{rest}"));
    repository(org, name, revision, file(&path)?)
}

/// `[/api][/models]/org/name[/tree/revision[/file]]`, as a browser or git has it
fn page(path: &str) -> Result<Reference, HubError> {
    let path = path.split(['?', '#']).next().unwrap_or_default().trim_matches('/');
    let path = path.strip_prefix("api/models/").unwrap_or(path);
    let (org, rest) = kind_of_model(path)?;
    let (name, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let rest = rest.trim_start_matches('/');
    let (route, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (revision, file) = match route {
        "" => (None, None),
        "tree" | "blob" | "resolve" | "raw" | "blame" | "commit" | "commits" | "revision" => {
            let (revision, path) = split_revision(rest.trim_start_matches('/'));
            // A tree's page is that of a folder.
            let path = if route == "tree" && !path.is_empty() { path + "/…" } else { path };
            (revision, file(&path)?)
        }
        other => {
            let message = format!("a repository's page '{}', and no revision", plain(other));
            return Err(invalid(format!("{message}; pass org/name")));
        }
    };
    repository(org, name, revision, file)
}

/// The organisation, and what follows. On the Hub some names stand for other things.
fn kind_of_model(path: &str) -> Result<(&str, &str), HubError> {
    let path = path.strip_prefix("models/").unwrap_or(path);
    let (org, rest) = path.split_once('/').unwrap_or((path, ""));
    let kind = match org {
        "datasets" => "a dataset",
        "spaces" => "a space",
        "kernels" => "a kernel",
        "buckets" => "a bucket",
        "collections" => "a collection",
        "papers" => "a paper",
        "api" | "blog" | "docs" | "learn" | "posts" | "settings" => "another page",
        _ => return Ok((org, rest)),
    };
    Err(invalid(format!("the address of {kind}, not of a model; pass a model's org/name")))
}

fn repository(
    org: &str,
    name: &str,
    revision: Option<String>,
    file: Option<String>,
) -> Result<Reference, HubError> {
    if name.is_empty() {
        return Err(invalid("an address without a repository; pass org/name".into()));
    }
    // As `git clone` takes it.
    let name = name.strip_suffix(".git").unwrap_or(name);
    Ok(Reference { id: RepoId::parse(&format!("{org}/{name}"))?, revision, file })
}

/// The revision, in which only the Hub's own references have an open `/`, and what follows.
fn split_revision(path: &str) -> (Option<String>, String) {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    let decode = |segment: &str| percent_decode_str(segment).decode_utf8_lossy().into_owned();
    let mut revision = segments.next().map(decode);
    if let Some(refs) = revision.as_mut().filter(|first| *first == "refs") {
        for segment in segments.by_ref().take(2) {
            *refs += "/";
            *refs += segment;
        }
    }
    (revision, segments.map(decode).collect::<Vec<_>>().join("/"))
}

/// The GGUF file that is meant, if it is one. Only a checkpoint at the top of a repository is read, and only in our
/// formats.
fn file(path: &str) -> Result<Option<String>, HubError> {
    let path = path.trim_start_matches('/');
    if path.contains('/') {
        let message = format!("leads to {}, below the top of a repository", plain(path));
        return Err(invalid(format!("{message}, where nothing is read; pass org/name")));
    }
    if path.ends_with(EXTENSION) {
        return Ok(Some(path.into()));
    }
    let other = instead(&[path.to_string()]);
    if !other.is_empty() && !path.ends_with(".safetensors") {
        return Err(invalid(format!("leads to what is not read here: {other}")));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: &str = "http://Mirror.example:8080/api/remote";

    fn parse(text: &str) -> Result<Option<(String, Option<String>)>, String> {
        let reference = Reference::parse(text, ENDPOINT).map_err(|error| error.to_string());
        Ok(reference?.map(|reference| (reference.id.to_string(), reference.revision)))
    }

    #[test]
    fn repositories() {
        for text in [
            "google/gemma",
            "hf://google/gemma",
            "hf://models/google/gemma",
            "hf://google/gemma/config.json",
            "hf.co/google/gemma",
            "HuggingFace.co/google/gemma/",
            "https://huggingface.co/google/gemma",
            "https://huggingface.co:443/google/gemma/",
            "http://www.huggingface.co/google/gemma?library=transformers#usage",
            "https://me:hf_secret@huggingface.co/google/gemma.git",
            "git@hf.co:google/gemma",
            "https://hf.co/models/google/gemma",
            "https://huggingface.co/api/models/google/gemma",
            "https://huggingface.co/google/gemma/tree",
            "http://mirror.example:8080/api/remote/google/gemma",
            "mirror.example:8080/api/remote/google/gemma",
            "http://mirror.example:8080/google/gemma",
        ] {
            assert_eq!(parse(text), Ok(Some(("google/gemma".into(), None))), "{text}");
        }
        for (text, revision) in [
            ("google/gemma@v1", "v1"),
            ("google/gemma@feature/x", "feature/x"),
            ("hf://google/gemma@v1", "v1"),
            ("hf://google/gemma@refs/pr/1/config.json", "refs/pr/1"),
            ("https://huggingface.co/google/gemma/tree/v1", "v1"),
            ("https://huggingface.co/google/gemma/tree/refs%2Fpr%2F1/", "refs/pr/1"),
            ("https://huggingface.co/google/gemma/tree/refs/pr/1", "refs/pr/1"),
            ("https://hf.co/google/gemma/commit/abc", "abc"),
            ("https://hf.co/google/gemma/blob/v1/README.md", "v1"),
            ("https://hf.co/google/gemma/resolve/v1/model.safetensors?download=true", "v1"),
            ("https://hf.co/api/models/google/gemma/revision/v1", "v1"),
        ] {
            let expected = ("google/gemma".into(), Some(revision.into()));
            assert_eq!(parse(text), Ok(Some(expected)), "{text}");
        }
    }

    #[test]
    fn paths() {
        for text in [
            "",
            "gpt2",
            "a/b/c",
            "models/a/b",
            "a/b/",
            "./a/b",
            "~/b",
            "/a/b",
            "a/b@",
            "a/b@c d",
            "C:\\a",
            "git@a",
        ] {
            assert_eq!(parse(text), Ok(None), "{text}");
        }
        assert_eq!(parse("models/a"), Ok(Some(("models/a".into(), None))), "has the form of an id");
    }

    #[test]
    fn other_addresses() {
        for (text, said) in [
            ("https://example.com/google/gemma", "set HF_ENDPOINT if example.com"),
            ("https://huggingface.co.evil/google/gemma", "on huggingface.co.evil"),
            ("https://huggingface.co@evil/google/gemma", "on evil,"),
            ("s3://bucket/gemma", "pass org/name"),
            ("https://huggingface.co", "without a repository"),
            ("hf.co/google", "without a repository"),
            ("hf://gemma", "without a repository"),
            ("https://huggingface.co/datasets/a/b", "a dataset"),
            ("hf://datasets/a/b", "a dataset"),
            ("https://huggingface.co/spaces/a/b", "a space"),
            ("https://huggingface.co/a/b/discussions/1", "'discussions'"),
            ("https://huggingface.co/a/b/tree/main/sub", "leads to sub/"),
            ("https://huggingface.co/a/b/blob/main/sub/x.json", "leads to sub/x.json"),
            ("https://huggingface.co/a/b/blob/main/x.bin", "it has x.bin"),
            ("https://huggingface.co/a/b%2f..", "not a repository's id"),
            ("hf://a/../b", "not a repository's id"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let address = "https://me:secret@hf.co/a/b?token=secret#secret";
        assert_eq!(shown(address), "https://hf.co/a/b");
        assert_eq!(shown("a/b\u{1b}[31m"), "a/b[31m");
    }

    #[test]
    fn files() {
        let file = |text, other| {
            let reference = Reference::parse(text, ENDPOINT).unwrap().unwrap();
            reference.file(other).map_err(|error| error.to_string())
        };
        let page = "https://huggingface.co/a/b/blob/main/x.Q4_0.gguf?download=true";
        let name = Ok(Some("x.Q4_0.gguf".to_string()));
        assert_eq!(file("a/b", None), Ok(None));
        assert_eq!(file("a/b", Some("x.Q4_0.gguf")), name);
        assert_eq!(file(page, None), name);
        assert_eq!(file("hf://a/b/x.Q4_0.gguf", Some("x.Q4_0.gguf")), name);
        assert!(file(page, Some("y.gguf")).unwrap_err().contains("leave one out"));
        for odd in ["../x.gguf", "sub/x.gguf", "x.safetensors", "", ".gguf", "a\\b.gguf", "\n.gguf"]
        {
            assert!(file("a/b", Some(odd)).unwrap_err().contains("at the top"), "{odd}");
        }
    }

    #[test]
    fn two_revisions() {
        let revision = |text, other| {
            let reference = Reference::parse(text, ENDPOINT).unwrap().unwrap();
            reference.revision(other).map_err(|error| error.to_string())
        };
        assert_eq!(revision("a/b", None), Ok("main".into()));
        assert_eq!(revision("a/b", Some("v1")), Ok("v1".into()));
        assert_eq!(revision("a/b@v1", None), Ok("v1".into()));
        assert_eq!(revision("a/b@v1", Some("v1")), Ok("v1".into()));
        let error = revision("a/b@v1", Some("v2")).unwrap_err();
        assert!(error.contains("'v1'") && error.contains("'v2'"), "{error}");
        assert!(revision("hf.co/a/b/tree/..", None).is_err());
    }
}
