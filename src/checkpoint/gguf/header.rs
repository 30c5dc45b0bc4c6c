//! The header of a GGUF file: its metadata, and which tensors it has, and where.
//!
//! The format is that of <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. It is read here and not by candle's
//! `gguf_file`, which makes a value of 32 bytes of every byte of a list, so that a file of a gigabyte could take all memory;
//! which takes a big-endian file for one that it reads, replaces what is not UTF-8 in a token, keeps the last of two
//! tensors of one name, and names no tensor where a type is unknown. What is kept here is one table, in a few times the
//! header's length, and no list. What blocks mean is candle's.

use super::cursor::Cursor;
use super::kinds;
use super::metadata::Metadata;
use crate::checkpoint::json::is_lfs_pointer;
use crate::checkpoint::tensors::{File, Storage};
use crate::error::{Error, Result};
use std::sync::Arc;

/// What every file begins with.
pub(super) const MAGIC: &[u8; 4] = b"GGUF";
/// The versions that are read: they differ in the order of bytes alone, and little-endian ones not at all.
const VERSIONS: [u32; 2] = [2, 3];
/// The most tensors; the largest models have a few thousand.
const MAX_TENSORS: u64 = 1 << 16;
/// The most bytes of a tensor's name; ggml's own limit is 64.
const LONGEST_NAME: usize = 256;
/// The most dimensions of a tensor.
const MAX_RANK: u32 = 4;
/// Where tensors begin, in bytes, if a file does not say otherwise.
const ALIGNMENT: u64 = 32;

/// What a header says.
pub(super) struct Header {
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<Info>,
}

/// A tensor as the file calls it.
#[derive(Debug, Clone)]
pub(super) struct Info {
    pub(super) name: String,
    pub(super) storage: Storage,
    /// Row-major: the other way round than in the file.
    pub(super) shape: Vec<usize>,
    /// Where its bytes begin in the file, and where they end.
    pub(super) place: [usize; 2],
}

/// Reads the header, and nothing else, and checks it: that every tensor lies behind the one before it, within the file.
pub(super) fn read(file: &Arc<File>) -> Result<Header> {
    let mut beginning = [0; 64];
    let beginning = &mut beginning[..file.len().min(64) as usize];
    file.fill(0, beginning)?;
    if is_lfs_pointer(beginning) {
        return Err(Error::GitLfs { path: file.path().into() });
    }
    let mut cursor = Cursor::new(file, 0);
    if !beginning.starts_with(MAGIC) {
        return Err(cursor.invalid("it does not begin with \"GGUF\""));
    }
    cursor.skip(MAGIC.len() as u64)?;
    let version = cursor.u32()?;
    if VERSIONS.contains(&version.swap_bytes()) {
        return Err(cursor.invalid("it is for big-endian machines; take the little-endian file"));
    }
    if !VERSIONS.contains(&version) {
        return Err(cursor.invalid(&format!("version {version}; 2 and 3 are read")));
    }
    let (tensors, keys) = (cursor.u64()?, cursor.u64()?);
    if tensors > MAX_TENSORS {
        return Err(cursor.invalid(&format!("{tensors} tensors; at most {MAX_TENSORS} are read")));
    }
    let metadata = Metadata::read(file, &mut cursor, keys)?;
    let alignment = metadata.whole("general.alignment")?.unwrap_or(ALIGNMENT);
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return Err(
            cursor.invalid(&format!("general.alignment is {alignment}; it must be a power of 2"))
        );
    }
    let mut infos = vec![];
    for i in 0..tensors {
        infos.push(info(&mut cursor, i)?);
    }
    place(&mut infos, cursor.at(), alignment, file)?;
    file.check_unchanged()?;
    Ok(Header { metadata, tensors: infos })
}

/// A tensor, of which [`Info::place`] begins with its offset for now.
fn info(cursor: &mut Cursor, index: u64) -> Result<Info> {
    let name = cursor.text(LONGEST_NAME, &format!("the name of tensor {index}"))?.to_string();
    let rank = cursor.u32()?;
    if rank > MAX_RANK {
        let reason = format!("tensor '{name}' has {rank} dimensions; at most {MAX_RANK} are read");
        return Err(cursor.invalid(&reason));
    }
    let mut shape = vec![];
    for _ in 0..rank {
        shape.push(cursor.u64()?);
    }
    shape.reverse();
    let kind = cursor.u32()?;
    let offset = cursor.u64()?;
    let storage = kinds::storage(kind)
        .map_err(|reason| cursor.invalid(&format!("tensor '{name}' is stored as {reason}")))?;
    let sizes: Option<Vec<usize>> = shape.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let bytes = sizes.as_deref().and_then(|sizes| bytes(storage, sizes));
    let place = bytes.and_then(|bytes| Some((usize::try_from(offset).ok()?, bytes)));
    match (sizes, place) {
        (Some(shape), Some((offset, bytes))) => {
            Ok(Info { name, storage, shape, place: [offset, bytes] })
        }
        _ => Err(cursor.invalid(&format!(
            "tensor '{name}' of shape {shape:?} in {storage}, at byte {offset} of the tensors: its rows are no whole \
             blocks, or it is larger than any file"
        ))),
    }
}

/// How many bytes a tensor takes, each of whose rows begins a block.
fn bytes(storage: Storage, shape: &[usize]) -> Option<usize> {
    let elements = shape.iter().try_fold(1, |n: usize, &dim| n.checked_mul(dim))?;
    storage.bytes(*shape.last().unwrap_or(&1))?;
    storage.bytes(elements)
}

/// Makes places in the file of offsets from where tensors begin, behind the header.
fn place(infos: &mut [Info], header: u64, alignment: u64, file: &File) -> Result<()> {
    let invalid = |reason| Error::Gguf { path: file.path().into(), reason };
    let data = header.next_multiple_of(alignment);
    let mut order: Vec<usize> = (0..infos.len()).collect();
    order.sort_by_key(|&i| infos[i].place[0]);
    let mut done = 0u64;
    for i in order {
        let Info { name, place: [offset, bytes], .. } = &infos[i];
        let start = *offset as u64;
        if !start.is_multiple_of(alignment) {
            let reason =
                format!("tensor '{name}' begins at {start}, which is no multiple of {alignment}");
            return Err(invalid(reason));
        }
        if start < done {
            let reason = format!("tensor '{name}' begins at {start}, within the one before it");
            return Err(invalid(reason));
        }
        let place =
            data.checked_add(start).and_then(|at| Some((at, at.checked_add(*bytes as u64)?)));
        let place = place.filter(|&(_, end)| end <= file.len());
        let place = place.and_then(|(at, end)| Some([at.try_into().ok()?, end.try_into().ok()?]));
        let Some(place) = place else {
            return Err(invalid(format!("the file ends before tensor '{name}' does")));
        };
        done = start + *bytes as u64;
        infos[i].place = place;
    }
    Ok(())
}
