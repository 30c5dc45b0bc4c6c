//! Gemma's gated-GELU MLP on candle, with the exact/tanh switch, and the drift between two ways of
//! computing it.
#![deny(missing_docs)]

mod activation;
mod error;
pub mod geglu;
pub mod gelu;
pub mod mlp;

pub use activation::Activation;
pub use error::{Error, Result, UnknownActivation};
pub use geglu::{activate, geglu};
pub use gelu::Gelu;
pub use mlp::{GemmaMlp, gemma_mlp, gemma_mlp_b};
