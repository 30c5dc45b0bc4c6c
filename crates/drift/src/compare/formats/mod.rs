//! The formats in which others write what their models compute. Each is known by its content; nothing
//! of a file is run.

mod beginning;
mod documents;
mod jsonl;
mod larql;
mod llama_cpp_base;
mod llama_cpp_logits;
mod llama_cpp_text;
pub(crate) mod log_probabilities;
mod model_addition_debugger;
mod npy;
mod npz;
mod python_json;
pub(crate) mod recording;
mod safetensors;

use super::dump::Dump;
use super::names::Names;
use crate::error::{Error, Result};
use beginning::Beginning;
use std::path::Path;

/// A format.
pub(crate) struct Format {
    /// Its name, as in [`Dump::format`].
    pub name: &'static str,
    /// Whether a file that begins so, or a folder with these files, is of it.
    pub recognises: fn(&Beginning) -> bool,
    /// Reads a file or folder of it.
    pub read: fn(&Path, &Names) -> Result<Dump>,
}

/// All of them, in the order in which they are tried: those that are sure of their content first.
const FORMATS: &[Format] = &[
    model_addition_debugger::MODEL_ADDITION_DEBUGGER,
    larql::LARQL,
    npz::NPZ,
    npy::NPY,
    safetensors::SAFETENSORS,
    llama_cpp_base::LLAMA_CPP_BASE,
    llama_cpp_logits::LLAMA_CPP_LOGITS,
    jsonl::JSONL,
    log_probabilities::LOG_PROBABILITIES,
    llama_cpp_text::LLAMA_CPP_TEXT,
];

/// Reads a dump of any known format.
///
/// # Errors
/// A file or folder that is of no known format, or is damaged.
pub fn read(path: &Path, names: &Names) -> Result<Dump> {
    let beginning = Beginning::of(path)?;
    match FORMATS.iter().find(|format| (format.recognises)(&beginning)) {
        Some(format) => Ok(Dump { format: format.name, ..(format.read)(path, names)? }),
        None => Err(Error::dump(path, beginning.refusal())),
    }
}
