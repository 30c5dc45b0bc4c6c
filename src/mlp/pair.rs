//! One pass under both forms of GELU.

#[cfg(doc)]
use crate::kernels::gelu::Gelu;
use candle_core::Tensor;

/// A block's output under both forms of GELU, from one projection.
#[derive(Debug, Clone)]
pub struct Pair {
    /// With [`Gelu::Exact`]: `[..., hidden]`.
    pub exact: Tensor,
    /// With [`Gelu::Tanh`]: `[..., hidden]`.
    pub tanh: Tensor,
}
