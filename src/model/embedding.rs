//! Token embeddings.

use crate::checkpoint::EmbeddingScale;
use crate::kernels::linear::Weight;
use candle_core::{DType, Result, Tensor};

/// Looks ids up and scales them by `sqrt(hidden)`.
///
/// The factor is rounded to the model's dtype first, as the reference has it (transformers
/// `Gemma3TextScaledWordEmbedding`; in bf16 `sqrt(640)` is 25.25); RecurrentGemma's is rounded to bf16 in any model.
#[derive(Debug, Clone)]
pub struct Embedding {
    weight: Weight,
    /// Before it is rounded to the model's dtype.
    pub(super) scale: f64,
}

impl Embedding {
    /// An embedding with weight `[vocab, hidden]`.
    ///
    /// # Errors
    /// A weight that is no matrix.
    pub fn new(weight: Weight, scale: EmbeddingScale) -> Result<Self> {
        let root = (weight.dims()?.1 as f64).sqrt();
        let scale = match scale {
            EmbeddingScale::RunDType => root,
            EmbeddingScale::Bf16 => rounded(root, DType::BF16),
        };
        Ok(Self { weight, scale })
    }

    /// `sqrt(hidden)`, not rounded.
    pub(super) fn root(&self) -> Result<f64> {
        Ok((self.weight.dims()?.1 as f64).sqrt())
    }

    /// The matrix, `[vocab, hidden]`.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    /// Ids `[batch, seq]` to `[batch, seq, hidden]` in a dtype.
    ///
    /// # Errors
    /// An id out of the vocabulary, ids that are no integers.
    pub fn forward(&self, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        let (batch, seq) = ids.dims2()?;
        let rows = self.weight.index_select(&ids.flatten_all()?)?.to_dtype(dtype)?;
        let scale = rounded(self.scale, dtype);
        (rows * scale)?.reshape((batch, seq, ()))
    }
}

/// A number as a dtype holds it.
pub(super) fn rounded(x: f64, dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => half::bf16::from_f64(x).to_f64(),
        DType::F16 => half::f16::from_f64(x).to_f64(),
        DType::F32 => f64::from(x as f32),
        _ => x,
    }
}
