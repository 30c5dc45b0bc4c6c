//! Gemma's RMSNorm.

use candle_core::{D, DType, Module, Result, Tensor};

/// `x / sqrt(mean(x²) + eps) · (1 + w)`, over the last dimension.
///
/// Computed in f32 (f64 for f64) up to and with the product by `1 + w`, and rounded once: Llama
/// rounds before that product (transformers `Gemma3RMSNorm`, pull request 29402). The weight is
/// stored as its distance from 1.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// A norm with weight `[hidden]`, of any floating-point dtype.
    pub fn new(weight: Tensor, eps: f64) -> Self {
        Self { weight, eps }
    }
}

impl Module for RmsNorm {
    /// `[..., hidden]` to the same shape and dtype.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let wide = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let x_wide = x.to_dtype(wide)?;
        let mean_square = x_wide.sqr()?.mean_keepdim(D::Minus1)?; // [..., 1]
        let normed = x_wide.broadcast_div(&(mean_square + self.eps)?.sqrt()?)?; // [..., hidden]
        normed.broadcast_mul(&(self.weight.to_dtype(wide)? + 1.0)?)?.to_dtype(x.dtype())
    }
}
