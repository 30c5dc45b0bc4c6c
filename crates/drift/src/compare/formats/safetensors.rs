//! Our own format, and safetensors files of others whose tensors have names that are known.

use super::{Beginning, Format};
use crate::compare::assemble::{Array, Assembly, Elements};
use crate::compare::dump::Dump;
use crate::compare::names::Names;
use crate::error::{Error, InvalidDump, Result};
use gemma_mlp::checkpoint::{Remark, RemarkKind, Tensors};
use gemma_mlp::internal::{FewNames, parse_json, read_text};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// What our own dumps say of their format.
const FORMAT: &str = "gemma-mlp-dump/1";

/// What the format is called without its version.
const FAMILY: &str = "gemma-mlp-dump/";

pub(super) const SAFETENSORS: Format = Format { name: "safetensors", recognises, read };

/// The ending of a file's name.
pub(super) const ENDING: &str = ".safetensors";

/// That of an index of shards.
const INDEX: &str = ".safetensors.index.json";

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
    let mut assembly = Assembly::new(path.display().to_string(), names);
    let tensors = match path.is_dir() {
        true => Tensors::open_files(path, &shards(path, &mut assembly)?)?,
        false => Tensors::open_file(path)?,
    };
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

/// The safetensors files of a folder, of which none is missing that an index names.
fn shards(path: &Path, assembly: &mut Assembly) -> Result<Vec<String>> {
    let folder = Beginning::of(path)?;
    if let Some(unused) = folder.unused(|name| name.ends_with(ENDING) || name.ends_with(INDEX)) {
        assembly.remark(unused);
    }
    for index in folder.files.iter().filter(|name| name.ends_with(INDEX)) {
        let index = path.join(index);
        let Index { weight_map } = parse_json(&read_text(&index)?, &index)?;
        let missing = weight_map.values().find(|shard| folder.files.binary_search(shard).is_err());
        if let Some(shard) = missing {
            let reason =
                format!("it names '{shard}', which is not there; copy it beside the others");
            return Err(Error::dump(index, InvalidDump::Malformed(reason)));
        }
    }
    Ok(folder.files.into_iter().filter(|name| name.ends_with(ENDING)).collect())
}

/// Which tensor is in which shard.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// What all files say of themselves together; where two contradict each other, the first is kept.
fn metadata(tensors: &Tensors, assembly: &mut Assembly) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let mut others = FewNames::default();
    for (path, metadata) in tensors.metadata() {
        for (key, value) in metadata {
            let kept = all.entry(key.clone()).or_insert_with(|| value.clone());
            if kept != value {
                others.push(&format!("{key} of {}", path.display()));
            }
        }
    }
    if others.count > 0 {
        let text = format!(
            "files say otherwise of themselves than those before them, which count: {others}"
        );
        assembly.remark(Remark::warning(RemarkKind::Chosen, text));
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
