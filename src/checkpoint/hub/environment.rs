//! What the variables say that all of Hugging Face's tools read, by the rules of `huggingface_hub`.
//! An empty one counts as unset.

use crate::error::HubError;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

pub(super) fn endpoint() -> Result<String, HubError> {
    Ok(text("HF_ENDPOINT")?.unwrap_or_else(|| "https://huggingface.co".into()))
}

pub(super) fn offline() -> bool {
    is_true(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
}

/// Where files are kept.
pub(super) fn cache() -> Result<PathBuf, HubError> {
    for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"] {
        if let Some(cache) = path(name)? {
            return Ok(cache);
        }
    }
    Ok(home()?.join("hub"))
}

/// The token, unless it is not to be sent unasked.
pub(super) fn token() -> Result<Option<String>, HubError> {
    if is_true(&["HF_HUB_DISABLE_IMPLICIT_TOKEN"]) {
        return Ok(None);
    }
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(token) = text(name)? {
            return Ok(Some(token));
        }
    }
    // What signing in has written.
    let file = match path("HF_TOKEN_PATH")? {
        Some(file) => file,
        None => home()?.join("token"),
    };
    match fs::read_to_string(&file) {
        Ok(token) => Ok(Some(token.trim().to_string()).filter(|token| !token.is_empty())),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(HubError::Variable {
            name: "HF_TOKEN_PATH",
            message: format!("or the file that signing in writes, {}: {error}", file.display()),
        }),
    }
}

fn home() -> Result<PathBuf, HubError> {
    if let Some(home) = path("HF_HOME")? {
        return Ok(home);
    }
    let caches = path("XDG_CACHE_HOME")?.or_else(|| Some(home_dir()?.join(".cache")));
    Ok(caches.unwrap_or_else(env::temp_dir).join("huggingface"))
}

fn home_dir() -> Option<PathBuf> {
    env::home_dir().filter(|home| !home.as_os_str().is_empty())
}

/// Whether the first of the variables that is set says yes.
fn is_true(names: &[&str]) -> bool {
    let value = names.iter().find_map(|name| env::var_os(name).filter(|value| !value.is_empty()));
    let value = value.and_then(|value| value.into_string().ok()).unwrap_or_default();
    ["1", "on", "yes", "true"].contains(&value.trim().to_lowercase().as_str())
}

/// Without the line break that secrets often end with.
pub(super) fn text(name: &'static str) -> Result<Option<String>, HubError> {
    let Some(value) = env::var_os(name) else { return Ok(None) };
    let Ok(value) = value.into_string() else {
        return Err(HubError::Variable { name, message: "is not UTF-8; set it anew".into() });
    };
    Ok(Some(value.trim().to_string()).filter(|value| !value.is_empty()))
}

/// With `~` and variables replaced: files and container images set them where no shell does it.
fn path(name: &'static str) -> Result<Option<PathBuf>, HubError> {
    let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let path = expand_home(Path::new(&value), home_dir());
    let path = path.map_err(|message| HubError::Variable { name, message })?;
    Ok(Some(expand_variables(&path, |name| env::var_os(name))))
}

fn expand_home(path: &Path, home: Option<PathBuf>) -> Result<PathBuf, String> {
    if let Ok(below) = path.strip_prefix("~") {
        let home = home.ok_or("begins with '~', and there is no home directory; set HOME")?;
        return Ok(if below.as_os_str().is_empty() { home } else { home.join(below) });
    }
    match path.iter().next().and_then(|first| first.to_str()) {
        // It would take the system's list of users.
        Some(user) if user.starts_with('~') => {
            Err(format!("begins with '{user}', another user's home; write out its path"))
        }
        _ => Ok(path.into()),
    }
}

/// `$NAME` and `${NAME}`; what is not set stays as it stands.
fn expand_variables(path: &Path, variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let Some(mut rest) = path.to_str() else { return path.into() };
    let mut expanded = OsString::new();
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push(before);
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (name, next) = braced.unwrap_or_else(|| {
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            after.split_at(after.find(|c| !word(c)).unwrap_or(after.len()))
        });
        let is_name = !name.is_empty() && !name.contains(['=', '\0']);
        match variable(name).filter(|_| is_name) {
            Some(value) => {
                expanded.push(value);
                rest = next;
            }
            None => {
                expanded.push("$");
                rest = after;
            }
        }
    }
    expanded.push(rest);
    expanded.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn homes() {
        let expand = |path: &str| expand_home(Path::new(path), Some("/home/me".into()));
        for (path, expanded) in [
            ("~", "/home/me"),
            ("~/hf", "/home/me/hf"),
            ("/a/~", "/a/~"),
            ("a/~b", "a/~b"),
            ("./~", "./~"),
        ] {
            assert_eq!(expand(path), Ok(expanded.into()), "{path}");
        }
        assert!(expand("~you/hf").unwrap_err().contains("'~you'"));
        assert!(expand_home(Path::new("~/hf"), None).unwrap_err().contains("HOME"));
        assert_eq!(expand_home(Path::new("/hf"), None), Ok("/hf".into()));
    }

    #[test]
    fn variables() {
        let set = |name: &str| (name == "A_1").then(|| OsString::from("x/$A_1"));
        for (path, expanded) in [
            ("$A_1", "x/$A_1"),
            ("/a/$A_1/b", "/a/x/$A_1/b"),
            ("${A_1}b", "x/$A_1b"),
            ("$A_1b ${B} $", "$A_1b ${B} $"),
            ("${A_1", "${A_1"),
            ("$$A_1", "$x/$A_1"),
            ("$-a${}", "$-a${}"),
        ] {
            assert_eq!(expand_variables(Path::new(path), set), Path::new(expanded), "{path}");
        }
    }
}
