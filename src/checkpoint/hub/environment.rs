//! What the variables say that all of Hugging Face's tools read. An empty one counts as unset.
//!
//! hf-hub's own reading knows fewer of them, and panics where there is no home directory.

use hf_hub::Cache;
use std::env;
use std::fs;
use std::path::PathBuf;

pub(super) fn endpoint() -> String {
    text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into())
}

pub(super) fn offline() -> bool {
    let value = text("HF_HUB_OFFLINE").unwrap_or_default().to_lowercase();
    ["1", "on", "yes", "true"].contains(&value.as_str())
}

/// Where files are kept.
pub(super) fn cache() -> PathBuf {
    let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
    cache.unwrap_or_else(|| home().join("hub"))
}

/// The token, unless it is not to be sent unasked.
pub(super) fn token() -> Option<String> {
    if text("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some() {
        return None;
    }
    let named = || {
        let token = fs::read_to_string(path("HF_TOKEN_PATH")?).ok()?;
        Some(token.trim().to_string()).filter(|token| !token.is_empty())
    };
    // The file that signing in writes lies beside the cache.
    text("HF_TOKEN").or_else(named).or_else(|| Cache::new(home().join("hub")).token())
}

fn home() -> PathBuf {
    path("HF_HOME").unwrap_or_else(|| {
        let caches = path("XDG_CACHE_HOME").or_else(|| Some(env::home_dir()?.join(".cache")));
        caches.unwrap_or_else(env::temp_dir).join("huggingface")
    })
}

/// Without the line break that secrets often end with.
pub(super) fn text(name: &str) -> Option<String> {
    let value = env::var(name).ok()?.trim().to_string();
    Some(value).filter(|value| !value.is_empty())
}

fn path(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}
