//! NumPy's archives of arrays: zip files of `.npy` entries. Those that are stored as they are stay in the
//! file; those that are compressed are unpacked into memory, up to a limit.

use super::npy::{ENDING, array};
use super::{Beginning, Format};
use crate::compare::assemble::Assembly;
use crate::compare::dump::Dump;
use crate::compare::names::Names;
use crate::error::{Error, InvalidDump, Result};
use gemma_mlp::checkpoint::{Remark, RemarkKind};
use gemma_mlp::internal::{FewNames, File};
use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use zip::{CompressionMethod, ZipArchive};

pub(super) const NPZ: Format = Format { name: "npz", recognises, read };

/// The most bytes that are unpacked of an archive.
const MAX_UNPACKED: u64 = 1 << 30;

/// The most entries of an archive.
const MAX_ENTRIES: usize = 1 << 16;

fn recognises(beginning: &Beginning) -> bool {
    beginning.zip_entry().is_some_and(|name| name.ends_with(ENDING))
}

fn read(path: &Path, names: &Names) -> Result<Dump> {
    let file = Arc::new(File::open(path.into())?);
    let fail = |reason| Error::dump(path, reason);
    let damaged = |e: &dyn std::fmt::Display| {
        fail(InvalidDump::Malformed(format!("a damaged zip archive ({e}); write it again")))
    };
    let reader = BufReader::new(Reader { file: file.clone(), at: 0 });
    let mut archive = ZipArchive::new(reader).map_err(|e| damaged(&e))?;
    if archive.len() > MAX_ENTRIES {
        return Err(fail(InvalidDump::TooMany { limit: MAX_ENTRIES, of: "entries" }));
    }
    let mut assembly = Assembly::new(path.display().to_string(), names);
    let (mut others, mut unpacked) = (FewNames::default(), 0);
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|e| damaged(&e))?;
        let full = entry.name().map_err(|e| damaged(&e))?.into_owned();
        let (method, size, packed) = (entry.compression(), entry.size(), entry.compressed_size());
        let (start, encrypted) = (entry.data_start(), entry.encrypted());
        drop(entry);
        let Some(name) = full.strip_suffix(ENDING) else {
            others.push(&full);
            continue;
        };
        let shown = format!("{}: {full}", path.display());
        assembly.add(name, || {
            let fail = |reason: &str| Error::dump(&shown, InvalidDump::Malformed(reason.into()));
            if encrypted {
                return Err(fail("an encrypted entry; write it without a password"));
            }
            let part = match method {
                CompressionMethod::Stored => {
                    let part = start.filter(|_| size == packed).and_then(|start| file.part(start, size));
                    part.ok_or_else(|| fail("it lies beyond the end of the archive; write it again"))?
                }
                CompressionMethod::Deflated => {
                    unpacked += size;
                    if unpacked > MAX_UNPACKED {
                        return Err(fail(
                            "more than 1 GiB of compressed arrays; write them with numpy.savez, which does not \
                             compress",
                        ));
                    }
                    let entry = archive.by_index(index).map_err(|e| damaged(&e))?;
                    let mut bytes = vec![];
                    // Not more than it says of itself, whatever is in it.
                    let read = entry.take(size + 1).read_to_end(&mut bytes);
                    read.map_err(|e| damaged(&e))?;
                    if bytes.len() as u64 != size {
                        return Err(fail("it unpacks to another size than it says; write it again"));
                    }
                    File::from_bytes(shown.as_str().into(), bytes.into())
                }
                other => {
                    return Err(fail(&format!("compressed by {other}; write it with numpy.savez")));
                }
            };
            array(&Arc::new(part), &shown)
        })?;
    }
    if others.count > 0 {
        let text = format!("entries that are no arrays, not used: {others}");
        assembly.remark(Remark::note(RemarkKind::Unused, text));
    }
    assembly.finish(BTreeMap::new())
}

/// A file as the archive is read from.
struct Reader {
    file: Arc<File>,
    at: u64,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.file.len().saturating_sub(self.at);
        let len = left.min(buffer.len() as u64) as usize;
        self.file.fill(self.at, &mut buffer[..len]).map_err(io::Error::other)?;
        self.at += len as u64;
        Ok(len)
    }
}

impl Seek for Reader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.file.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
