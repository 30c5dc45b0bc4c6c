//! One pass under both forms of GELU.

#[cfg(doc)]
use crate::kernels::gelu::Gelu;
use crate::kernels::linear::{Linear, Weight};
use candle_core::{DType, Result, Tensor};

/// A block's output under both forms of GELU, from one projection.
#[derive(Debug, Clone)]
pub struct Pair {
    /// With [`Gelu::Exact`]: `[..., hidden]`.
    pub exact: Tensor,
    /// With [`Gelu::Tanh`]: `[..., hidden]`.
    pub tanh: Tensor,
}

impl Pair {
    /// What the last layer makes of both products, `[2, ..., in]`, with the bits that each has alone:
    /// at once if the layer sums a row in one order, whatever the others are. candle's products do not.
    pub(super) fn of(
        products: &Tensor,
        last: &Linear,
        forward: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Self> {
        if matches!(last.weight(), Weight::Packed(_)) && products.dtype() != DType::F64 {
            let both = forward(products)?; // [2, ..., out]
            return Ok(Self { exact: both.get(0)?, tanh: both.get(1)? });
        }
        let of = |i| forward(&products.get(i)?);
        Ok(Self { exact: of(0)?, tanh: of(1)? })
    }
}
