//! The logits that llama.cpp's `llama-debug --save-logits` writes, and before it `llama-logits`:
//! `llamacpp-MODEL.bin`, the last token's logits in f32, beside the ids in `llamacpp-MODEL-tokens.bin`.
//! The scripts beside these programs write transformers' in the same way, as `pytorch-MODEL.bin`.

use super::Format;
use super::recording::InvalidRecording;
use crate::compare::dump::{Dump, DumpText};
use crate::compare::plane::Plane;
use crate::compare::point::Point;
use crate::error::Result;
use gemma_mlp::checkpoint::{Remark, RemarkKind};
use gemma_mlp::internal::{self, Numbers};
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) const LLAMA_CPP_LOGITS: Format = Format {
    name: NAME,
    recognises: |beginning| recognises_name(&beginning.path),
    read: |path, _| read(path),
};
const NAME: &str = "llama.cpp's --save-logits";

/// What a text's ids or its prompt take at most, in bytes.
const MAX_BESIDE: u64 = 64 << 20;
/// What a row of logits takes at most, in bytes; the largest vocabularies have a fifteenth of it.
const MAX_ROW: u64 = 64 << 20;

/// By its name, since the file has no header.
fn recognises_name(path: &Path) -> bool {
    let is_bin = path.extension().is_some_and(|extension| extension == "bin");
    is_bin && framework(path).is_some()
}

/// Who computed it, and the model's name.
fn framework(path: &Path) -> Option<(&'static str, &str)> {
    let stem = path.file_stem()?.to_str()?;
    let names = [("llamacpp-", "llama.cpp"), ("pytorch-", "transformers")];
    names.iter().find_map(|(prefix, name)| Some((*name, stem.strip_prefix(prefix)?)))
}

fn read(path: &Path) -> Result<Dump> {
    read_logits(path).map_err(|error| error.of(path))
}

fn read_logits(path: &Path) -> Result<Dump, InvalidRecording> {
    let (framework, model) = framework(path).unwrap_or(("llama.cpp", ""));
    for (suffix, what) in [("-embeddings", "embeddings"), ("-tokens", "token ids")] {
        if let Some(base) = model.strip_suffix(suffix) {
            return Err(InvalidRecording::Invalid(format!(
                "these are {what}; pass the logits beside them, …-{base}.bin"
            )));
        }
    }
    let len = std::fs::metadata(path)?.len();
    if len == 0 || len % 4 != 0 || len > MAX_ROW {
        return Err(InvalidRecording::Invalid(format!(
            "{len} bytes are not the logits of one token in f32"
        )));
    }
    let plane = plane(path, (len / 4) as usize).map_err(InvalidRecording::invalid)?;
    let mut remarks = vec![];
    let mut text = DumpText { planes: [(Point::Logits, plane)].into(), ..DumpText::default() };
    match tokens(&beside(path, "-tokens.bin"))? {
        Some(tokens) => {
            text.logit_positions = Some(vec![tokens.len() - 1]);
            text.tokens = Some(tokens);
        }
        None => remarks.push(Remark::warning(
            RemarkKind::Text,
            format!(
                "{} is not there, so the dump has no token ids; its logits are those of the last token",
                beside(path, "-tokens.bin").display()
            ),
        )),
    }
    let mut metadata: BTreeMap<_, _> =
        [("framework", framework), ("model", model)].map(|(k, v)| (k.into(), v.into())).into();
    if let Some(prompt) = prompt(&beside(path, "-prompt.txt")) {
        metadata.insert("prompt".into(), prompt);
    }
    let source = path.display().to_string();
    Ok(Dump { source, format: NAME, metadata, texts: vec![text], remarks })
}

/// The row of f32 that a file is.
fn plane(path: &Path, width: usize) -> Result<Plane, String> {
    let file = Arc::new(internal::File::open(path.into()).map_err(|error| error.to_string())?);
    let numbers = Numbers::of(&file, 0, width, Dtype::F32);
    let plane = numbers.and_then(|numbers| Plane::in_file(numbers, vec![1, width]));
    plane.ok_or_else(|| "it was written to while it was read".into())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_os_string();
    name.push(suffix);
    path.with_file_name(name)
}

/// `None` if there is no such file.
fn tokens(path: &Path) -> Result<Option<Vec<u32>>, InvalidRecording> {
    let mut bytes = vec![];
    match File::open(path) {
        Ok(file) => file.take(MAX_BESIDE + 1).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let (ids, rest) = bytes.as_chunks::<4>();
    let ids = ids.iter().map(|id| u32::try_from(i32::from_le_bytes(*id)).ok());
    let ids: Option<Vec<u32>> = ids.collect();
    let ids = ids.filter(|ids| !ids.is_empty() && rest.is_empty());
    let malformed = || {
        let name = path.display();
        InvalidRecording::Invalid(format!("{name}, which is beside it, is not token ids in i32"))
    };
    ids.map(Some).ok_or_else(malformed)
}

fn prompt(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_BESIDE).read_to_string(&mut text).ok()?;
    let (prompt, _) = text.strip_prefix("prompt: ")?.rsplit_once("\nn_tokens: ")?;
    Some(prompt.into())
}
