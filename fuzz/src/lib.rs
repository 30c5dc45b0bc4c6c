//! What the fuzzers run: one function per target, from bytes. A panic is a finding, and so is an answer that
//! contradicts another one. `fuzz_targets/` hands them to libFuzzer, and the test `fuzz` of the program's crate runs
//! them over `corpus/`, on any compiler.

mod changes;
mod config;
mod constructors;
mod dump;
mod gguf;
mod header;
mod ids;
mod index;
mod merge;
mod model;
mod oracle;
mod report;
mod small;
mod tokenizer;
mod windows;

pub use config::config;
pub use constructors::constructors;
pub use dump::dump;
pub use gguf::gguf;
pub use header::header;
pub use ids::ids;
pub use index::index;
pub use merge::merge;
pub use model::model;
pub use report::report;
pub use tokenizer::tokenizer;
pub use windows::windows;

/// A name, and what runs.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 12] = [
    ("config", config),
    ("constructors", constructors),
    ("dump", dump),
    ("gguf", gguf),
    ("header", header),
    ("ids", ids),
    ("index", index),
    ("merge", merge),
    ("model", model),
    ("report", report),
    ("tokenizer", tokenizer),
    ("windows", windows),
];
