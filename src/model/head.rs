//! Hidden states to logits.

use crate::kernels::linear::{InputRounding, Weight};
use candle_core::{Result, Tensor};

/// The language-model head: a matrix, often the embedding's, and the family's soft-cap.
#[derive(Debug, Clone)]
pub struct Head {
    weight: Weight,
    vocab_size: usize,
    softcap: Option<f64>,
    inputs: InputRounding,
}

impl Head {
    /// A head with weight `[vocab, hidden]` and, for Gemma 2, `cap·tanh(logits/cap)`.
    ///
    /// # Errors
    /// A weight that is no matrix.
    pub fn new(weight: Weight, softcap: Option<f64>) -> Result<Self> {
        let (vocab_size, _) = weight.dims()?;
        Ok(Self { weight, vocab_size, softcap, inputs: InputRounding::Exact })
    }

    /// A head of this weight without a soft-cap.
    pub(super) fn without_softcap(&self) -> Self {
        Self { softcap: None, ..self.clone() }
    }

    /// A head of this weight that rounds what it multiplies.
    pub(super) fn with_input_rounding(&self, inputs: InputRounding) -> Self {
        Self { inputs, ..self.clone() }
    }

    pub(super) fn frozen(&self) -> Self {
        Self { weight: self.weight.frozen(), ..self.clone() }
    }

    /// Its matrix, `[vocab, hidden]`.
    pub fn weight(&self) -> &Weight {
        &self.weight
    }

    /// A head of another weight: some of its rows.
    #[doc(hidden)]
    pub fn with_weight(&self, weight: Weight) -> Result<Self> {
        let (vocab_size, _) = weight.dims()?;
        Ok(Self { weight, vocab_size, ..self.clone() })
    }

    /// The soft-cap, if the family has one.
    pub fn softcap(&self) -> Option<f64> {
        self.softcap
    }

    /// Rows of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
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
    /// Words beyond the vocabulary; of a packed head, a start that is no multiple of 32.
    pub fn rows(&self, hidden: &Tensor, start: usize, len: usize) -> Result<Tensor> {
        let logits = self.weight.narrow(start, len)?.matmul(&self.inputs.round(hidden)?, None)?;
        match self.softcap {
            Some(cap) => (logits / cap)?.tanh()? * cap,
            None => Ok(logits),
        }
    }
}
