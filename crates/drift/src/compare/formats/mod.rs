//! The formats in which others write what their models compute. Each is known by its content; nothing
//! of a file is run.

mod documents;
mod jsonl;
mod llama_cpp_base;
mod llama_cpp_logits;
mod llama_cpp_text;
pub(crate) mod log_probabilities;
pub(crate) mod python_json;
mod raw;
pub(crate) mod recording;

use super::dump::Dump;
use crate::error::Result;
use recording::InvalidRecording;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// How much of a file is looked at to know its format.
const BEGINNING: u64 = 1 << 16;

/// Reads a dump of any known format.
///
/// # Errors
/// A file or folder that is of no known format, or is damaged.
pub fn read(path: &Path) -> Result<Dump> {
    let mut beginning = vec![];
    let read = File::open(path).and_then(|file| file.take(BEGINNING).read_to_end(&mut beginning));
    read.map_err(|error| InvalidRecording::from(error).of(path))?;
    match &beginning[..] {
        _ if llama_cpp_logits::recognises_name(path) => llama_cpp_logits::read(path),
        bytes if llama_cpp_base::recognises(bytes) => llama_cpp_base::read(path),
        bytes if jsonl::recognises(bytes) => jsonl::read(path),
        bytes if log_probabilities::recognises(bytes) => log_probabilities::read(path),
        bytes if llama_cpp_text::recognises(bytes) => llama_cpp_text::read(path),
        _ => Err(InvalidRecording::Refused("of no known format".into()).of(path)),
    }
}
