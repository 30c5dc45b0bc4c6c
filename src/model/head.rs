//! Hidden states to logits.

use crate::linear::linear;
use candle_core::{Result, Tensor};
use candle_nn::Linear;

/// The language-model head: a matrix, often the embedding's, and the family's soft-cap.
#[derive(Debug, Clone)]
pub struct Head {
    weight: Tensor,
    softcap: Option<f64>,
}

impl Head {
    /// A head with weight `[vocab, hidden]` and, for Gemma 2, `cap·tanh(logits/cap)`.
    pub fn new(weight: Tensor, softcap: Option<f64>) -> Self {
        Self { weight, softcap }
    }

    /// Its matrix, `[vocab, hidden]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// The soft-cap, if the family has one.
    pub fn softcap(&self) -> Option<f64> {
        self.softcap
    }

    /// Rows of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.weight.dims()[0]
    }

    /// Normed hidden states `[..., hidden]` to logits `[..., vocab]`.
    ///
    /// # Errors
    /// A last dimension that is not the hidden size.
    pub fn forward(&self, hidden: &Tensor) -> Result<Tensor> {
        self.rows(hidden, 0, self.vocab_size())
    }

    /// The logits of `len` words from `start` on: `[..., len]`.
    ///
    /// # Errors
    /// Words beyond the vocabulary.
    pub fn rows(&self, hidden: &Tensor, start: usize, len: usize) -> Result<Tensor> {
        let weight = self.weight.narrow(0, start, len)?;
        let logits = linear(&Linear::new(weight, None), hidden)?;
        match self.softcap {
            Some(cap) => (logits / cap)?.tanh()? * cap,
            None => Ok(logits),
        }
    }
}
