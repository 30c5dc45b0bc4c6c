//! Rotary position embedding.

use crate::checkpoint::LayerAttention;
use candle_core::{Device, Result, Tensor};

/// Rotates pairs `(x[i], x[i + d/2])` of each head by `position · theta^(-2i/d) / factor`
/// (Su et al. 2021, <https://arxiv.org/abs/2104.09864>; transformers' "rotate half" layout).
///
/// Angles are computed in f32 as the reference does, whatever the model's dtype: in bf16,
/// positions above 256 could not even be told apart.
#[derive(Debug, Clone)]
pub struct RotaryEmbedding {
    cos: Tensor,
    sin: Tensor,
}

impl RotaryEmbedding {
    /// Tables for positions `0..seq_len`, each `[seq_len, head_dim / 2]` in f32.
    ///
    /// # Errors
    /// candle's, if the device is out of memory.
    pub fn new(
        layer: &LayerAttention,
        head_dim: usize,
        seq_len: usize,
        device: &Device,
    ) -> Result<Self> {
        let theta = layer.rope_theta as f32;
        let half = head_dim / 2;
        let frequency = |i: usize| 1.0 / theta.powf((2 * i) as f32 / head_dim as f32);
        let frequencies: Vec<f32> =
            (0..half).map(|i| frequency(i) / layer.rope_factor as f32).collect();
        let angles: Vec<f32> = (0..seq_len)
            .flat_map(|position| frequencies.iter().map(move |f| position as f32 * f))
            .collect();
        let angles = Tensor::from_vec(angles, (seq_len, half), device)?; // [seq, head_dim / 2]
        Ok(Self { cos: angles.cos()?, sin: angles.sin()? })
    }

    /// Rotates `[batch, heads, seq, head_dim]` in f32, positions counted from 0.
    ///
    /// # Errors
    /// A sequence longer than the tables.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let seq_len = x.dim(2)?;
        let (cos, sin) = (self.cos.narrow(0, 0, seq_len)?, self.sin.narrow(0, 0, seq_len)?);
        candle_nn::rotary_emb::rope(&x.contiguous()?, &cos, &sin)
    }
}
