//! Files that results are saved to: a file is replaced whole or not at all, and what is no file is written to.

use anyhow::Result;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Writes a file. What it holds is written under another name beside it, `.NAME.XXXXXX.tmp`, and renamed when all of
/// it is on the disk: whatever happens, the file is the old one or the new one.
///
/// A file that is replaced keeps its mode and, where the system allows it, its owner. Of a symbolic link the file
/// that it leads to is replaced; the link stays. Other hard links to a replaced file keep the old content. A device,
/// a pipe or one of the program's own open files (`/dev/stdout`) is written to and never replaced,
/// and so is a file that is mounted by itself, as into a container.
pub fn save(path: &Path, content: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    match Place::of(path)? {
        Place::InPlace => content(&mut open_in_place(path)?),
        Place::Replaced { path, old } => {
            let file = beside(&path, old.as_ref())?;
            content(&mut file.as_file())?;
            if let Some(old) = &old {
                keep_owner_and_mode(file.as_file(), old)?;
            }
            file.as_file().sync_all()?;
            match file.persist(&path) {
                Err(e) if e.error.kind() == io::ErrorKind::ResourceBusy => {
                    io::copy(&mut e.file.reopen()?, &mut File::create(&path)?)?;
                }
                replaced => drop(replaced.map_err(|e| e.error)?),
            }
            Ok(())
        }
    }
}

/// Finds out whether [`save`] can write, as far as that can be known without writing.
pub fn check(path: &Path) -> io::Result<()> {
    match Place::of(path)? {
        // Opening a pipe would wait for its reader.
        Place::InPlace if is_pipe(path) => {}
        Place::InPlace => drop(open_in_place(path)?),
        Place::Replaced { path, old } => {
            if old.is_some() {
                // It could be replaced all the same, but whoever made it read-only did so for a reason.
                File::options().write(true).open(&path)?;
            }
            beside(&path, old.as_ref())?;
        }
    }
    Ok(())
}

/// How a path is written to.
pub enum Place {
    /// A regular file or none yet, at the end of all links.
    Replaced { path: PathBuf, old: Option<Metadata> },
    /// A device, a pipe, or an open file of this process.
    InPlace,
}

impl Place {
    /// # Errors
    /// A directory, links in a circle, a path that leads nowhere.
    pub fn of(path: &Path) -> io::Result<Self> {
        let old = match fs::metadata(path) {
            Ok(old) if old.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(old) if !old.is_file() => return Ok(Self::InPlace),
            Ok(old) => Some(old),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let names_directory = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        if path.file_name().is_none() || names_directory {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let mut path = path.to_path_buf();
        loop {
            // The system has followed the links of what exists, and so there is no circle here.
            let directory = directory(&path).to_path_buf();
            if holds_open_files(&directory) {
                return Ok(Self::InPlace);
            }
            match fs::read_link(&path) {
                Ok(target) => path = directory.join(target),
                Err(_) => return Ok(Self::Replaced { path, old }),
            }
        }
    }
}

/// The directory that a file is in.
pub fn directory(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Whether what looks like links in a directory are the files that a process has open.
fn holds_open_files(directory: &Path) -> bool {
    let directory = fs::canonicalize(directory).unwrap_or_default();
    directory.starts_with("/proc") || directory.starts_with("/dev/fd")
}

/// An open file of this process is written to at its end, behind what has been printed.
fn open_in_place(path: &Path) -> io::Result<File> {
    File::options().append(true).open(path)
}

fn is_pipe(path: &Path) -> bool {
    #[cfg(unix)]
    let is_pipe = |file: Metadata| std::os::unix::fs::FileTypeExt::is_fifo(&file.file_type());
    #[cfg(not(unix))]
    let is_pipe = |_| false;
    fs::metadata(path).is_ok_and(is_pipe)
}

/// A new file in the directory of another, named after it and gone when dropped. No one may read it who may not read
/// the one that it is to replace.
fn beside(path: &Path, old: Option<&Metadata>) -> io::Result<NamedTempFile> {
    // Names have 255 bytes at most, and a character up to 4.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let prefix: String = [".", &name].concat().chars().take(58).chain(['.']).collect();
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).suffix(".tmp");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // Less what umask takes.
        let mode = old.map_or(0o666, |old| old.permissions().mode() & 0o777);
        builder.permissions(fs::Permissions::from_mode(mode));
    }
    #[cfg(not(unix))]
    let _ = old;
    builder.tempfile_in(directory(path)).map_err(without_name)
}

/// What the system said, without the name of a temporary file.
fn without_name(error: io::Error) -> io::Error {
    let said = error.to_string();
    let said = said.split(" at path ").next().unwrap_or_default();
    io::Error::new(error.kind(), said)
}

fn keep_owner_and_mode(new: &File, old: &Metadata) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{MetadataExt, fchown};
        let now = new.metadata()?;
        if (now.uid(), now.gid()) != (old.uid(), old.gid()) {
            // Only root may give files away; the content matters more than the owner.
            let _ = fchown(new, Some(old.uid()), Some(old.gid()));
        }
    }
    new.set_permissions(old.permissions())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who finds a temporary file that a killed run has left sees what it was to become.
    #[test]
    fn temporary_files_are_named_after_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let name = |of: &str| {
            let file = beside(&dir.path().join(of), None).unwrap();
            file.path().file_name().unwrap().to_str().unwrap().to_string()
        };
        let run = name("run.json");
        assert!(run.starts_with(".run.json.") && run.ends_with(".tmp"), "{run}");
        for longest in ["a".repeat(255), "𝄞".repeat(63)] {
            assert!(name(&longest).starts_with(&format!(".{}", &longest[..40])));
        }
        let missing = beside(&dir.path().join("no/run.json"), None).unwrap_err().to_string();
        assert!(!missing.contains("run.json"), "{missing}");
    }

    #[test]
    fn content_that_fails_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.json");
        fs::write(&path, "old").unwrap();
        let failed = save(&path, |to| {
            to.write_all(b"half of it")?;
            anyhow::bail!("no more")
        });
        assert_eq!(failed.unwrap_err().to_string(), "no more");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }
}
