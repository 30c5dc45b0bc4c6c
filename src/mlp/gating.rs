//! How the gate of a block is passed on.

use crate::kernels::activation::Activation;
use crate::rounding::Rounding;

/// The activation of a gated block, and where it rounds: what two ways of computing one model differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gating {
    /// The function that the gate passes through.
    pub activation: Activation,
    /// Where `activation(gate) ⊙ up` is rounded to the block's dtype.
    pub rounding: Rounding,
}
