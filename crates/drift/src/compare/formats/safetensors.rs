//! Our own format, and safetensors files of others whose tensors have names that are known.

use super::{Beginning, Format};
use crate::compare::assemble::{Array, Assembly, Elements};
use crate::compare::dump::Dump;
use crate::compare::names::Names;
use crate::error::{Error, InvalidDump, Result};
use gemma_mlp::checkpoint::{Remark, RemarkKind, Tensors};
use std::collections::BTreeMap;
use std::path::Path;

/// What our own dumps say of their format.
const FORMAT: &str = "gemma-mlp-dump/1";

/// What the format is called without its version.
const FAMILY: &str = "gemma-mlp-dump/";

pub(super) const SAFETENSORS: Format = Format { name: "safetensors", recognises, read };

/// The ending of a file's name.
pub(super) const ENDING: &str = ".safetensors";

/// An object of JSON behind its length; a file that is called so, and is nothing else, is a damaged one.
fn recognises(beginning: &Beginning) -> bool {
    let object = beginning.bytes.get(8) == Some(&b'{');
    let named = beginning.path.extension().is_some_and(|ending| ending == "safetensors");
    match beginning.is_folder() {
        true => beginning.has(ENDING),
        false => object || (named && !beginning.is_something_else()),
    }
}

fn read(path: &Path, names: &Names) -> Result<Dump> {
    let tensors = match path.is_dir() {
        true => Tensors::open_files(path, &shards(path)?)?,
        false => Tensors::open_file(path)?,
    };
    let mut assembly = Assembly::new(path.display().to_string(), names);
    for remark in tensors.remarks() {
        assembly.remark(remark.clone());
    }
    let metadata = metadata(&tensors, &mut assembly);
    let own = check_version(path, &metadata)?;
    if !own {
        let text = format!(
            "it does not say that its format is {FORMAT}; it is read by the names of its tensors"
        );
        assembly.remark(Remark::note(RemarkKind::Chosen, text));
    }
    for (name, shape, _) in tensors.entries() {
        assembly.add(name, || {
            let elements = Elements::File(tensors.numbers(name)?);
            Ok(Array { shape: shape.into(), elements })
        })?;
    }
    assembly.finish(metadata)
}

/// The safetensors files of a folder.
fn shards(path: &Path) -> Result<Vec<String>> {
    let names = Beginning::of(path)?.files;
    Ok(names.into_iter().filter(|name| name.ends_with(ENDING)).collect())
}

/// What all files say of themselves together; where two contradict each other, the first is kept.
fn metadata(tensors: &Tensors, assembly: &mut Assembly) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (path, metadata) in tensors.metadata() {
        for (key, value) in metadata {
            let kept = all.entry(key.clone()).or_insert_with(|| value.clone());
            if kept != value {
                let file = path.display();
                let text =
                    format!("{file} says another {key} than the files before it, which count");
                assembly.remark(Remark::warning(RemarkKind::Chosen, text));
            }
        }
    }
    all
}

/// Whether a dump says that it is of our own format; refuses a version that is not known.
fn check_version(path: &Path, metadata: &BTreeMap<String, String>) -> Result<bool> {
    match metadata.get("format").map(String::as_str) {
        Some(FORMAT) => Ok(true),
        Some(other) if other.starts_with(FAMILY) => {
            let reason = InvalidDump::Version { found: other.into(), reads: FORMAT };
            Err(Error::dump(path, reason))
        }
        _ => Ok(false),
    }
}
