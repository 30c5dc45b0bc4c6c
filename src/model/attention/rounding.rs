//! Where attention rounds between its projections.

use candle_core::{DType, Result, Tensor};

/// What attention rounds to a dtype between its projections, where ours computes in f32 throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum AttentionRounding {
    /// Nothing.
    #[default]
    None,
    /// Queries and keys after the norm and after every operation of the rotary embedding, the softmax's weights,
    /// and what they sum up to; scores stay f32, as in kernels that are called flash or
    /// scaled_dot_product_attention (transformers' `sdpa`).
    Fused(DType),
    /// All that, and the scores after every operation: attention out of a framework's own operations (transformers'
    /// `eager_attention_forward`, whose softmax is f32).
    EveryOp(DType),
}

impl AttentionRounding {
    /// The dtype of everything that is rounded.
    fn dtype(self) -> Option<DType> {
        match self {
            Self::None => None,
            Self::Fused(dtype) | Self::EveryOp(dtype) => Some(dtype),
        }
    }

    /// The dtype of the rotary embedding's operations.
    pub(super) fn of_rope(self) -> Option<DType> {
        self.dtype()
    }

    /// Whatever is rounded at all, which stays in the wide dtype.
    pub(super) fn round(self, x: Tensor) -> Result<Tensor> {
        rounded(x, self.dtype())
    }

    /// The scores after an operation.
    pub(super) fn round_scores(self, x: Tensor) -> Result<Tensor> {
        match self {
            Self::EveryOp(dtype) => rounded(x, Some(dtype)),
            Self::None | Self::Fused(_) => Ok(x),
        }
    }
}

fn rounded(x: Tensor, dtype: Option<DType>) -> Result<Tensor> {
    match dtype {
        Some(dtype) => x.to_dtype(dtype)?.to_dtype(x.dtype()),
        None => Ok(x),
    }
}
