//! GGUF files, llama.cpp's format: config, weights and tokenizer in one.
//!
//! A file is read as the checkpoint that it was converted from: its metadata is put into the terms of transformers'
//! configs, its tensors are called as transformers calls them, and its tokenizer becomes a `tokenizer.json`. All that
//! follows is as with any other checkpoint. llama.cpp's converter changes the numbers of norms alone: up to Gemma 3 it
//! writes `1 + w`, in f32, and 1 is taken off again when they are read. Of what f32 makes of `1 + w` that is exact, and
//! `1 +` it is the file's number again; only what the file has lost of a `w` below 2⁻¹⁶ in bf16 is not in it. (Heads of
//! queries and keys, which it permutes in Llama, it leaves as they are in every Gemma.)
//!
//! Quantised weights are dequantised when they are read, by candle, to the f32 that ggml makes of them.

mod config;
mod cursor;
mod header;
mod kinds;
mod metadata;
mod names;
pub(super) mod parts;
mod sparsity;
mod tokenizer;

use super::config::Config;
use super::remark::{Remark, RemarkKind};
use super::tensors::header::{Header, Stored};
use super::tensors::shard::Shard;
use super::tensors::table::Table;
use super::tensors::{File, Tensors};
use super::tokenizer::{TOKENIZER, Tokenizer};
use crate::error::{Error, Result};
use config::{Architecture, FACTORS, Source, reads_factors};
use header::{Info, MAGIC};
use metadata::Metadata;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

/// What is missing where a tensor is.
const REMEDY: &str =
    "the file lacks it, under the name that GGUF has for it; convert or download it again";

/// What a file holds.
pub(super) struct Opened {
    pub(super) config: Config,
    pub(super) tensors: Tensors,
    pub(super) tokenizer: Tokenizer,
}

/// Whether a path is that of a GGUF file, by its name or by its first bytes.
pub(super) fn is_gguf(path: &Path) -> bool {
    let named = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let is_file = std::fs::metadata(path).is_ok_and(|file| file.is_file());
    let begins = || {
        let mut beginning = [0; MAGIC.len()];
        let read = std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut beginning));
        read.is_ok() && &beginning == MAGIC
    };
    !path.is_dir() && (named || (is_file && begins()))
}

/// Opens a file, or all parts of a split one by any of them. Headers are read, and weights when they are asked for.
///
/// # Errors
/// Anything that is malformed or contradicts itself; an architecture that is no Gemma; types that are not read.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let files = parts::paths(path)?;
    let files =
        files.into_iter().map(|path| File::open(path).map(Arc::new)).collect::<Result<Vec<_>>>()?;
    let beside = path.with_file_name(TOKENIZER);
    let mut opened = of_files(path, files)?;
    if beside.exists() {
        let text =
            format!("{TOKENIZER} beside the file is used, and not the tokenizer in its metadata");
        opened.config.remarks.push(Remark::note(RemarkKind::Chosen, text));
        opened.tokenizer = Tokenizer::file(beside, &opened.config);
    }
    Ok(opened)
}

/// A file in memory, with a path for messages.
pub(super) fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Opened> {
    of_files(path, vec![Arc::new(File::from_bytes(path.into(), bytes.into()))])
}

fn of_files(path: &Path, files: Vec<Arc<File>>) -> Result<Opened> {
    let mut headers = files.iter().map(header::read).collect::<Result<Vec<_>>>()?;
    check_parts(&files, &headers)?;
    let metadata = headers[0].metadata.clone();
    let architecture = Architecture::of(&metadata, path)?;
    let unsupported = |reason| Error::UnsupportedModel { path: path.into(), reason };
    let family = architecture.family().map_err(unsupported)?;
    let mut tensors = vec![];
    for (file, header) in files.iter().zip(&mut headers) {
        tensors.extend(header.tensors.drain(..).map(|info| (file.clone(), info)));
    }
    let source = Source { architecture, family, metadata: &metadata, tensors: &tensors };
    let made = config::config(&source)?;
    let mut config = Config::parse(&made.json, path)?;
    config.remarks.extend(made.remarks);
    config.remarks.extend(quantised(&tensors));
    if architecture.one_plus {
        let text = "norms are stored as 1 + w; they are w again, which is exact in f32";
        config.remarks.push(Remark::note(RemarkKind::Chosen, text));
    }
    if reads_factors(family) {
        tensors.retain(|(_, info)| info.name != FACTORS);
    }
    let shards = files
        .iter()
        .map(|file| shard(file, &tensors, architecture.one_plus, family.profile().norms.pre_mlp));
    let shards = shards.collect::<Result<Vec<_>>>()?;
    let tensors = Tensors::of_shards(path, shards, REMEDY)?;
    let tokenizer = of_metadata(path, metadata, &config);
    Ok(Opened { config, tensors, tokenizer })
}

/// Checks that files are all parts of one, in their order.
fn check_parts(files: &[Arc<File>], headers: &[header::Header]) -> Result<()> {
    let count = files.len() as u64;
    for (i, (file, header)) in files.iter().zip(headers).enumerate() {
        let own = header.metadata.whole("split.count")?.unwrap_or(1).max(1);
        let number = header.metadata.whole("split.no")?.unwrap_or(0);
        if own != count || number != i as u64 {
            let reason = format!(
                "it says that it is part {} of {own}, and its name that it is part {} of {count}; call it by its number",
                number + 1,
                i + 1
            );
            return Err(Error::Gguf { path: file.path().into(), reason });
        }
    }
    let all: usize = headers.iter().map(|header| header.tensors.len()).sum();
    match headers[0].metadata.whole("split.tensors.count")? {
        Some(listed) if listed != all as u64 => {
            let reason = format!("it counts {listed} tensors in all parts, which have {all}");
            Err(Error::Gguf { path: files[0].path().into(), reason })
        }
        _ => Ok(()),
    }
}

/// A file's tensors, by transformers' names.
fn shard(
    file: &Arc<File>,
    tensors: &[(Arc<File>, Info)],
    one_plus: bool,
    pre_mlp: &str,
) -> Result<Shard> {
    let invalid = |reason: String| Error::Gguf { path: file.path().into(), reason };
    let mut table = Table::default();
    let mut push = |name: &str, info: &Info, shape: &[usize], place: [usize; 2]| {
        let stored = Stored::new(info.storage, shape, place);
        let stored = stored.filter(|stored| stored.bytes() == Some(place[1] - place[0]));
        let mut stored = stored.ok_or_else(|| {
            invalid(format!(
                "tensor '{}' of shape {:?} in {} is of no whole blocks",
                info.name, info.shape, info.storage
            ))
        })?;
        stored.plus_one = one_plus && name.ends_with("norm.weight");
        table.push(name, stored).map_err(|_| invalid("its names are too long".into()))
    };
    let own = tensors.iter().filter(|(of, _)| Arc::ptr_eq(of, file));
    for (_, info) in own {
        match (names::stack(&info.name), &info.shape[..]) {
            (Some(name), [count, shape @ ..]) if *count > 0 => {
                let [start, end] = info.place;
                let size = (end - start) / count;
                for i in 0..*count {
                    let place = [start + i * size, start + (i + 1) * size];
                    push(&format!("{name}.{i}.weight"), info, shape, place)?;
                }
            }
            _ => push(&names::transformers(&info.name, pre_mlp), info, &info.shape, info.place)?,
        }
    }
    let tensors =
        table.sorted().map_err(|name| invalid(format!("tensor '{name}' is there twice")))?;
    let header = Header { data: 0, tensors, renamed: 0, metadata: BTreeMap::new() };
    Ok(Shard::of(file.clone(), header))
}

/// That weights are quantised, and how.
fn quantised(tensors: &[(Arc<File>, Info)]) -> Option<Remark> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (_, info) in tensors.iter().filter(|(_, info)| info.storage.is_quantised()) {
        *counts.entry(info.storage.to_string()).or_default() += 1;
    }
    let all: usize = counts.values().sum();
    let counts: Vec<_> = counts.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
    (all > 0).then(|| {
        let text = format!(
            "{all} of {} tensors are quantised ({}); they stand for \
             the numbers that ggml makes of them; llama.cpp also rounds what they are multiplied by to 8 bits, which a side \
             with q8-activations does",
            tensors.len(),
            counts.join(", ")
        );
        Remark::note(RemarkKind::Chosen, text)
    })
}

/// The tokenizer in the metadata, which is read when a text first is.
fn of_metadata(path: &Path, metadata: Metadata, config: &Config) -> Tokenizer {
    let of = path.to_path_buf();
    let make = move || match tokenizer::is_there(&metadata) {
        true => tokenizer::json(&metadata),
        false => Err(Error::Tokenizer {
            path: of.clone(),
            reason: "no tokenizer in its metadata; put tokenizer.json beside it, or pass token ids"
                .into(),
        }),
    };
    Tokenizer::made(path.into(), Box::new(make), config)
}
