//! Gemma's gated-GELU MLP, `down(gelu(gate(x)) ⊙ up(x))`, on candle: with the exact/tanh switch,
//! forward and backward, and the Gemma around it.
//!
//! Data flows one way, and each module knows only those before it:
//!
//! | module | what it holds |
//! |---|---|
//! | `kernels` | the mathematics: GELU, matrix products, the gated activation as one candle operation |
//! | [`mlp`] | [`GemmaMlp`], the block itself, and [`InputGate`] |
//! | `rounding` | where and how a framework rounds: [`Rounding`], [`Framework`] |
//! | [`checkpoint`] | config, names and weights of every Gemma family; computes nothing |
//! | [`model`] | [`Gemma`], the decoder around the block |
//!
//! To embed the block in a candle model, [`gemma_mlp`] builds it from a `VarBuilder` as candle-nn's
//! layers are built. The library prints nothing and, without features, depends on nothing that candle
//! does not bring. The feature `hub` fetches checkpoints; `embedded` brings a small one inside the
//! library. What measures the drift between two ways of computing a model is the crate
//! `gemma-mlp-drift`, and the program `gemma-mlp` is `gemma-mlp-cli`.
#![deny(missing_docs)]

pub mod checkpoint;
pub mod device;
mod error;
#[doc(hidden)]
pub mod internal;
mod kernels;
pub mod mlp;
pub mod model;
mod rounding;

pub use checkpoint::Checkpoint;
pub use error::{Error, HubError, InvalidLayer, NoGpu, Result, UnknownActivation, Unsupported};
pub use kernels::activation::Activation;
pub use kernels::geglu::{activate, geglu};
pub use kernels::gelu::Gelu;
pub use kernels::number::Float;
pub use kernels::{gelu, linear};
pub use mlp::{Gating, GemmaMlp, InputGate, Sparsity, gemma_mlp, gemma_mlp_b};
pub use mlp::{MixtureOfExperts, mixture_of_experts};
pub use mlp::{input_gate, input_gate_b};
pub use model::Gemma;
pub use rounding::{Framework, Rounding};

/// The Rust blocks of the README and of the page on embedding are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[doc = include_str!("../docs/embedding.md")]
struct Pages;
