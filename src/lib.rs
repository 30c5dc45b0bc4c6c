//! Gemma's gated-GELU MLP on candle, with the exact/tanh switch, and the drift between two ways of
//! computing it.
#![deny(missing_docs)]

mod activation;
pub mod checkpoint;
pub mod drift;
mod error;
pub mod geglu;
pub mod gelu;
pub mod mlp;
pub mod model;
pub mod report;

pub use activation::Activation;
pub use checkpoint::Checkpoint;
pub use error::{Error, Result, UnknownActivation};
pub use geglu::{activate, geglu};
pub use gelu::Gelu;
pub use mlp::{GemmaMlp, gemma_mlp, gemma_mlp_b};
