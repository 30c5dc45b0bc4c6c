//! How far two ways of computing a Gemma are apart, beside what rounding alone does.
//!
//! | module | what it holds |
//! |---|---|
//! | [`input`] | token ids, and noise for blocks whose model does not run |
//! | [`forward`] | a forward pass with what happens inside the blocks |
//! | [`drift`] | two sides, the distance between them, and the noise floor |
//! | [`compare`] | someone else's model against ours: where it parts first, and by which mistake |
//! | [`curves`] | the functions as curves, with the errors of presets, and against candle's own |
//!
//! [`drift::drift`] measures a checkpoint under two [`Side`](drift::Side)s.
//! [`compare_blocks`](drift::compare_blocks) and [`LogitMetrics::of`](drift::LogitMetrics::of)
//! measure anyone's blocks and logits, on tensors that you pass in.
//!
//! Results are plain data that serde writes, and reads where a program has to; nothing is printed.
//! The program `gemma-mlp`, in the crate `gemma-mlp-cli`, shows them as tables, plots and pages.
#![deny(missing_docs)]

pub mod compare;
pub mod curves;
pub mod drift;
mod dump_file;
mod error;
mod footprint;
pub mod forward;
pub mod input;

pub use error::{EndedPart, Error, InvalidDump, InvalidReport, Result};
pub use footprint::Footprint;

/// The README's code is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
