//! Which files a GGUF checkpoint is: one, or the parts that a large one was split into.

use crate::error::{Error, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// How names of GGUF files end.
pub(in crate::checkpoint) const EXTENSION: &str = ".gguf";

/// The most parts.
const MAX_PARTS: usize = 4096;

/// The name of a part: `gemma-00001-of-00003.gguf`.
struct Part<'a> {
    stem: &'a str,
    number: usize,
    count: usize,
    /// As it stands there.
    digits: &'a str,
}

impl<'a> Part<'a> {
    fn parse(name: &'a str) -> Option<Self> {
        let rest = name.strip_suffix(EXTENSION)?;
        let (rest, digits) = rest.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
        if !is_number(number) || !is_number(digits) {
            return None;
        }
        let (number, count) = (number.parse().ok()?, digits.parse().ok()?);
        (number >= 1 && number <= count).then_some(Self { stem, number, count, digits })
    }
}

/// The names of all parts of a file, by that of any of them; its own if it is whole.
pub(in crate::checkpoint) fn names(name: &str) -> Vec<String> {
    match Part::parse(name) {
        Some(Part { stem, count, digits, .. }) if count <= MAX_PARTS => {
            (1..=count).map(|number| format!("{stem}-{number:05}-of-{digits}{EXTENSION}")).collect()
        }
        _ => vec![name.into()],
    }
}

/// All parts of a file, by the path of any of them.
///
/// # Errors
/// A part that is missing.
pub(super) fn paths(path: &Path) -> Result<Vec<PathBuf>> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Ok(vec![path.into()]);
    };
    let names = names(name);
    let paths: Vec<_> = names.iter().map(|name| path.with_file_name(name)).collect();
    match paths.iter().find(|path| !path.exists()) {
        None => Ok(paths),
        Some(missing) if paths.len() == 1 => {
            let remedy =
                "pass a GGUF file, or a directory with config.json and safetensors weights";
            Err(Error::MissingFile { path: missing.clone(), remedy: remedy.into() })
        }
        Some(missing) => {
            let remedy =
                format!("{name} is one of {} parts; put all of them beside it", paths.len());
            Err(Error::MissingFile { path: missing.clone(), remedy })
        }
    }
}

/// The GGUF model of a directory, of a split one the first part; `None` where there is none, or where the directory has
/// safetensors weights.
///
/// # Errors
/// Several.
pub(in crate::checkpoint) fn of_directory(dir: &Path) -> Result<Option<PathBuf>> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().take(1 << 12);
    let names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    if names
        .iter()
        .any(|name| name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"))
    {
        return Ok(None);
    }
    match &models(&names)[..] {
        [] => Ok(None),
        [only] => Ok(Some(dir.join(only))),
        [first, second, ..] => Err(Error::Input(format!(
            "{}: there are several GGUF models in it, as {first} and {second}; pass the file that you mean",
            dir.display()
        ))),
    }
}

/// The models among some names, of a split one the first part. What sees and hears beside one (`mmproj`) is none.
pub(in crate::checkpoint) fn models(names: &[String]) -> Vec<&str> {
    let first = |name: &&str| Part::parse(name).is_none_or(|part| part.number == 1);
    let is_model = |name: &&str| name.ends_with(EXTENSION) && !name.contains("mmproj");
    let all: BTreeSet<_> =
        names.iter().map(String::as_str).filter(is_model).filter(first).collect();
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_by_any_of_them() {
        assert_eq!(names("a.gguf"), ["a.gguf"]);
        let three = ["a-00001-of-00003.gguf", "a-00002-of-00003.gguf", "a-00003-of-00003.gguf"];
        for name in three {
            assert_eq!(names(name), three);
        }
        for odd in [
            "a-00004-of-00003.gguf",
            "a-00000-of-00003.gguf",
            "a-1-of-3.gguf",
            "a-00001-of-99999.gguf",
            "-of-.gguf",
            "a-00001-of-00003",
            "a-0000é-of-00003.gguf",
        ] {
            assert_eq!(names(odd), [odd]);
        }
        let all = ["b.gguf", three[2], three[0], "mmproj-b.gguf", "README.md"].map(String::from);
        assert_eq!(models(&all), [three[0], "b.gguf"]);
    }
}
