//! Where attention rounds between its projections.

use crate::model::norm::rounded_to;
use candle_core::{DType, Result, Tensor};

/// What attention rounds to a dtype between its projections, where ours computes in f32 throughout: queries and keys
/// after their norm and their rotary embedding, the softmax's weights, and what these sum up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionRounding {
    /// The dtype of all of that.
    pub dtype: DType,
    /// Whether the rotary embedding rounds cosine, sine, both products and their sum, and not the result alone.
    pub rotary_every_op: bool,
    /// Whether scores are rounded after every operation. They are not in kernels that are called flash or
    /// scaled_dot_product_attention (transformers' `sdpa`), and they are in attention out of a framework's own operations
    /// (transformers' `eager_attention_forward`, whose softmax is f32).
    pub scores: bool,
}

impl AttentionRounding {
    /// Whatever is rounded at all; it stays in the wide dtype.
    pub(super) fn round(self, x: Tensor) -> Result<Tensor> {
        rounded_to(&x, self.dtype)
    }

    /// The scores after an operation.
    pub(super) fn round_scores(self, x: Tensor) -> Result<Tensor> {
        if self.scores { self.round(x) } else { Ok(x) }
    }
}

/// What is rounded, if anything is.
pub(super) fn round(rounding: Option<AttentionRounding>, x: Tensor) -> Result<Tensor> {
    rounding.map_or(Ok(x.clone()), |rounding| rounding.round(x))
}
