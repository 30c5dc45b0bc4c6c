//! What a path is, as far as its first bytes or the names of its files tell.

use super::FORMATS;
use crate::error::{Error, InvalidDump, Result};
use gemma_mlp::checkpoint::{Remark, RemarkKind};
use gemma_mlp::internal::{FewNames, File, is_lfs_pointer};
use std::fs;
use std::path::{Path, PathBuf};

/// How much of a file is looked at.
const LOOK: u64 = 4 << 10;

/// The most files of a folder.
const MAX_FILES: usize = 1 << 16;

/// The first bytes of a file, or the names of a folder's files.
pub(crate) struct Beginning {
    /// The file or folder.
    pub path: PathBuf,
    /// The first 4 KiB of a file; none of a folder.
    pub bytes: Vec<u8>,
    /// The names of what lies in a folder, sorted; none for a file.
    pub files: Vec<String>,
    is_folder: bool,
}

impl Beginning {
    /// Looks at a file or folder; refuses what is neither, and what Git leaves in place of a large file.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|source| io(path, source))?;
        let mut beginning =
            Self { path: path.into(), bytes: vec![], files: vec![], is_folder: metadata.is_dir() };
        if beginning.is_folder {
            beginning.files = list(path)?;
        } else {
            let file = File::open(path.into())?;
            beginning.bytes = vec![0; file.len().min(LOOK) as usize];
            file.fill(0, &mut beginning.bytes)?;
            if is_lfs_pointer(&beginning.bytes) {
                return Err(gemma_mlp::Error::GitLfs { path: path.into() }.into());
            }
        }
        Ok(beginning)
    }

    /// Whether it is a folder.
    pub fn is_folder(&self) -> bool {
        self.is_folder
    }

    /// Whether a folder has a file whose name ends so.
    pub fn has(&self, ending: &str) -> bool {
        self.files.iter().any(|name| name.ends_with(ending))
    }

    /// Says which of a folder's files are not used, if any.
    pub fn unused(&self, used: impl Fn(&str) -> bool) -> Option<Remark> {
        let others: FewNames =
            self.files.iter().map(String::as_str).filter(|name| !used(name)).collect();
        let text = format!("files in the folder that are not read: {others}");
        (others.count > 0).then(|| Remark::note(RemarkKind::Unused, text))
    }

    /// The first bytes of a file as text, without the byte order mark and blanks in front; empty if they
    /// are none.
    pub fn text(&self) -> &str {
        let text = match std::str::from_utf8(&self.bytes) {
            Ok(text) => text,
            // A letter may be cut at the end.
            Err(e) if e.error_len().is_none() => {
                std::str::from_utf8(&self.bytes[..e.valid_up_to()]).unwrap_or_default()
            }
            Err(_) => "",
        };
        text.trim_start_matches('\u{feff}').trim_start()
    }

    /// The name of a zip archive's first entry.
    pub fn zip_entry(&self) -> Option<&str> {
        let rest = self.bytes.strip_prefix(b"PK\x03\x04")?;
        let length = u16::from_le_bytes(*rest.get(22..24)?.first_chunk()?);
        std::str::from_utf8(rest.get(26..26 + usize::from(length))?).ok()
    }

    /// Whether it is of a kind that is known and not read.
    pub fn is_something_else(&self) -> bool {
        !matches!(self.refusal(), InvalidDump::UnknownFormat { what, .. } if what.is_empty())
    }

    /// Why it is read by no format.
    pub(super) fn refusal(&self) -> InvalidDump {
        let starts = |magic: &[u8]| self.bytes.starts_with(magic);
        let has = |part: &[u8]| self.bytes.windows(part.len()).any(|bytes| bytes == part);
        // A pickle begins with its protocol, a PyTorch file of today is a zip archive with one inside.
        let pickle = matches!(self.bytes[..], [0x80, 2..=5, ..]);
        let what = match self {
            _ if self.bytes.is_empty() && self.files.is_empty() => return InvalidDump::Empty,
            _ if starts(b"PK") && has(b".pkl") => {
                return InvalidDump::Pickle { what: "PyTorch's own format" };
            }
            _ if pickle => return InvalidDump::Pickle { what: "Python's own format" },
            _ if self.is_folder => {
                let first: Vec<_> = self.files.iter().take(4).map(String::as_str).collect();
                let dots = if self.files.len() > first.len() { ", …" } else { "" };
                format!(" (a folder with {}{dots})", first.join(", "))
            }
            _ if starts(b"GGUF") => " (GGUF, which holds weights)".into(),
            _ if starts(b"PK") => " (a zip archive without arrays)".into(),
            _ if starts(b"\x89HDF") => " (HDF5)".into(),
            _ if starts(b"\x1f\x8b") => " (compressed with gzip: unpack it)".into(),
            _ => String::new(),
        };
        let formats: Vec<_> = FORMATS.iter().map(|format| format.name).collect();
        InvalidDump::UnknownFormat { what, formats: formats.join(", ") }
    }
}

/// The names of a folder's files, sorted.
fn list(path: &Path) -> Result<Vec<String>> {
    let mut names = vec![];
    for entry in fs::read_dir(path).map_err(|source| io(path, source))? {
        let entry = entry.map_err(|source| io(path, source))?;
        if names.len() == MAX_FILES {
            let reason = InvalidDump::TooMany { limit: MAX_FILES, of: "files" };
            return Err(Error::dump(path, reason));
        }
        // No format has names that are no text.
        names.extend(entry.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// The error about a file that the system does not give.
fn io(path: &Path, source: std::io::Error) -> Error {
    gemma_mlp::Error::Io { path: path.into(), source }.into()
}
