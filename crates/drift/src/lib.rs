//! How far two ways of computing a Gemma are apart, beside what rounding alone does.
//!
//! | module | what it holds |
//! |---|---|
//! | [`input`] | token ids, and noise for blocks whose model does not run |
//! | [`forward`] | a forward pass with what happens inside the blocks |
//! | [`drift`] | two sides, their difference, and the noise floor |
//! | [`curves`] | the functions as curves, with the errors of presets, and against candle's own |
//!
//! Results are plain data that serde writes and reads; nothing is printed. The program `gemma-mlp`, in
//! the crate `gemma-mlp-cli`, shows them as tables, plots and pages.
#![deny(missing_docs)]

pub mod curves;
pub mod drift;
mod error;
pub mod forward;
pub mod input;

pub use drift::drift;
pub use error::{Error, Result};
pub use forward::forward;
