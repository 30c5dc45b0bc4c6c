//! Outputs that would destroy an input, or one another.

use super::save::{self, Place, directory};
use anyhow::Result;
use gemma_mlp::Error;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

/// Finds out, before hours go into them, whether files can be written and each result has one of its own.
///
/// # Errors
/// One that cannot be written; two that are one; one that standard output goes to.
pub fn check_outputs(outputs: &[&Path]) -> Result<()> {
    let mut known: Vec<(&Path, Identity)> = vec![];
    let printed = standard_output();
    for path in outputs {
        save::check(path).map_err(|source| Error::Io { path: path.into(), source })?;
        let Some(identity) = Identity::of_output(path) else { continue };
        if let Some((other, _)) = known.iter().find(|(_, other)| *other == identity) {
            return Err(Error::Input(format!(
                "{}: two results cannot go to one file{}; give each a name of its own",
                path.display(),
                also_called(path, other),
            ))
            .into());
        }
        if Some(&identity) == printed.as_ref() {
            return Err(Error::Input(format!(
                "{}: standard output goes to this file too; give each a name of its own",
                path.display()
            ))
            .into());
        }
        known.push((path, identity));
    }
    Ok(())
}

/// Refuses an output that is also an input, by whatever names and links.
pub fn check_inputs(outputs: &[&Path], inputs: impl IntoIterator<Item = PathBuf>) -> Result<()> {
    let outputs: Vec<_> =
        outputs.iter().filter_map(|path| Some((path, Identity::of_output(path)?))).collect();
    for input in inputs {
        let Ok(metadata) = fs::metadata(&input) else { continue };
        let identity = Identity::of_file(&input, &metadata);
        if let Some((output, _)) = outputs.iter().find(|(_, output)| *output == identity) {
            return Err(Error::Input(format!(
                "{}: this file is an input too{} and would be overwritten; choose another name",
                output.display(),
                also_called(output, &input),
            ))
            .into());
        }
    }
    Ok(())
}

/// The other name of a file, if it has one.
fn also_called(path: &Path, other: &Path) -> String {
    if path == other { String::new() } else { format!(" ({})", other.display()) }
}

/// What makes two names one file.
#[derive(PartialEq)]
enum Identity {
    /// Device and inode, which hard links share.
    #[cfg(unix)]
    Inode(u64, u64),
    /// Where it is, or will be.
    Path(PathBuf),
}

impl Identity {
    /// Of a file that is to be written; `None` of what is no file, which may take any number of results.
    fn of_output(path: &Path) -> Option<Self> {
        match Place::of(path).ok()? {
            Place::InPlace => None,
            Place::Replaced { path, old: Some(old) } => Some(Self::of_file(&path, &old)),
            Place::Replaced { path, old: None } => {
                let directory = fs::canonicalize(directory(&path)).ok()?;
                Some(Self::Path(directory.join(path.file_name()?)))
            }
        }
    }

    fn of_file(path: &Path, metadata: &Metadata) -> Self {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let _ = path;
            Self::Inode(metadata.dev(), metadata.ino())
        }
        #[cfg(not(unix))]
        {
            let _ = metadata;
            Self::Path(fs::canonicalize(path).unwrap_or_else(|_| path.into()))
        }
    }
}

/// The regular file that standard output goes to.
fn standard_output() -> Option<Identity> {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        let stdout = std::io::stdout().as_fd().try_clone_to_owned().ok()?;
        let metadata = fs::File::from(stdout).metadata().ok()?;
        metadata.is_file().then(|| Identity::of_file(Path::new(""), &metadata))
    }
    #[cfg(not(unix))]
    None
}
