//! One pass with all that is between.

use candle_core::Tensor;

/// Every intermediate of one forward pass, in the block's dtype.
#[derive(Debug, Clone)]
pub struct Trace {
    /// `gate(x)`: `[..., intermediate]`.
    pub gate: Tensor,
    /// `up(x)`: `[..., intermediate]`. Of an `InputGate` it is the input that is gated.
    pub up: Tensor,
    /// `activation(gate)`: `[..., intermediate]`; of a block with sparsity, that of the gate made
    /// sparse. In a half-precision type it is rounded for you to see, while `product` is computed from
    /// its unrounded value.
    pub activated: Tensor,
    /// `activation(gate) ⊙ up`: `[..., intermediate]`.
    pub product: Tensor,
    /// `down(product)`: `[..., hidden]`, the block's output.
    pub output: Tensor,
}
