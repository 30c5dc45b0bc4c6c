//! Gemma's gated blocks.
//!
//! [`GemmaMlp`] is `down(activation(gate(x)) ⊙ up(x))`: the block of `GemmaMLP`, `Gemma2MLP`, `Gemma3MLP`
//! (transformers, `models/gemma*/modeling_gemma*.py`), `RecurrentGemmaMlp` (the same with biases),
//! `Gemma3nTextMLP` (the same with a [`Sparsity`]) and `FeedForward` (DeepMind's
//! `gemma/gm/nn/_modules.py`).
//!
//! [`InputGate`] is `out(activation(gate(x)) ⊙ input)`, where what is gated comes from elsewhere.

mod experts;
mod gating;
mod gemma_mlp;
mod input_gate;
mod layers;
mod one_pass;
mod pair;
mod projection;
mod sparsity;
mod trace;

pub use experts::{
    ExpertSizes, ExpertTrace, ExpertsTrace, GatedExperts, MixtureOfExperts, Router, Routing,
    mixture_of_experts,
};
pub use gating::Gating;
pub use gemma_mlp::{GemmaMlp, gemma_mlp, gemma_mlp_b};
pub use input_gate::{InputGate, input_gate, input_gate_b};
pub use pair::Pair;
pub use projection::GateUp;
pub use sparsity::{Deviation, Sparsity};
pub use trace::Trace;
