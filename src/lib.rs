//! Gemma's gated-GELU MLP, `down(gelu(gate(x)) ⊙ up(x))`, on candle: with the exact/tanh switch,
//! forward and backward, and the drift between two ways of computing it.
//!
//! Data flows one way, and each module knows only those before it:
//!
//! | module | what it holds |
//! |---|---|
//! | [`device`] | which device there is |
//! | [`gelu`] | the two formulas, their derivatives and names; no tensors |
//! | [`mod@linear`] | matrix products with weights that stay |
//! | [`mod@geglu`] | the gated activation as one candle operation |
//! | [`mlp`] | [`GemmaMlp`], the block itself |
//! | `bench` (feature `cli`) | how fast the block is, beside candle's operations and the machine's limits |
//! | [`curves`] | the functions as curves, with the errors of presets, and against candle's own |
//! | [`checkpoint`] | config, names and weights of every Gemma family; computes nothing |
//! | [`model`] | [`Gemma`], the decoder around the block |
//! | [`drift`] | two sides, their difference, and what rounding alone does |
//! | [`report`] | results as tables, JSON, CSV, pictures and pages |
//!
//! To embed the block in a candle model, [`gemma_mlp`] builds it from a `VarBuilder` as candle-nn's
//! layers are built. The library prints nothing and, without the default feature `cli`, depends on
//! nothing that candle does not bring. The feature `hub`, a part of `cli`, fetches checkpoints;
//! `embedded`, another part, brings a small one inside the program.
#![deny(missing_docs)]

mod activation;
#[cfg(feature = "cli")]
pub mod bench;
pub mod checkpoint;
pub mod curves;
pub mod device;
pub mod drift;
mod error;
mod exp;
mod float;
pub mod geglu;
pub mod gelu;
pub mod linear;
mod memory;
pub mod mlp;
pub mod model;
mod operands;
mod pointwise;
pub mod report;
mod rounding;
mod threads;

pub use activation::Activation;
pub use checkpoint::Checkpoint;
pub use error::{Error, HubError, InvalidLayer, InvalidShape, Result, UnknownActivation};
pub use float::Float;
pub use geglu::{activate, geglu};
pub use gelu::Gelu;
pub use mlp::{GemmaMlp, gemma_mlp, gemma_mlp_b};
pub use model::Gemma;
pub use rounding::{Framework, Rounding};

/// The README's Rust block is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
