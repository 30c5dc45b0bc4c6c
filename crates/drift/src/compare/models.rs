//! The models that a dump is held against: ours in f32, and the one whose distance from it is what rounding
//! does.

use super::arithmetic::Arithmetic;
use crate::drift::{self, Change, Difference, load_sharing};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use gemma_mlp::Checkpoint;
use gemma_mlp::checkpoint::Remark;
use gemma_mlp::model::{Gemma, Head, Variation};

/// Ours, and the one beside it.
pub(super) struct Models {
    /// In f32.
    pub(super) ours: Gemma,
    /// Ours with their arithmetic and in their dtype, where that rounds more than ours does in f32; else ours in f64.
    pub(super) beside: Gemma,
}

/// Whether a checkpoint has one stack of layers alone, whose dumps are read.
///
/// # Errors
/// One of an encoder and a decoder.
pub(super) fn one_stack(checkpoint: &Checkpoint) -> Result<()> {
    let lacks = "whose dumps are neither captured nor compared so far";
    let family = checkpoint.config().family;
    checkpoint.config().encoder().map_or(Ok(()), |_| Err(Error::TwoStacks { family, lacks }))
}

impl Models {
    /// Both, and what there is to say of the arithmetic.
    pub(super) fn load(
        checkpoint: &Checkpoint,
        arithmetic: &Arithmetic,
        device: &Device,
    ) -> Result<(Self, Vec<Remark>)> {
        one_stack(checkpoint)?;
        let ours = Gemma::load(checkpoint, device, DType::F32)?;
        let beside = match arithmetic.dtype {
            // Packed weights are unpacked to f64 as they are used, one matrix at a time.
            DType::F64 => ours.with_dtype(DType::F64),
            dtype => load_sharing(checkpoint, [&ours].into_iter(), dtype, device)?,
        };
        let (beside, remarks) = arithmetic.applied(&beside, checkpoint)?;
        let ours = match arithmetic.in_ours {
            true => arithmetic.applied(&ours, checkpoint)?.0,
            false => ours,
        };
        Ok((Self { ours, beside }, remarks))
    }

    /// These with mistakes put in, one on top of the other.
    pub(super) fn having(mut self, mistakes: &[&Difference]) -> Result<Self> {
        for mistake in mistakes {
            let Change::Model(variations) = mistake.change else {
                return Err(Error::NotAMistake { name: mistake.name });
            };
            let put_in = |gemma: &Gemma| match drift::varied(gemma, variations)? {
                Some(gemma) => Ok(gemma),
                None => Err(Error::NotAMistake { name: mistake.name }),
            };
            (self.ours, self.beside) = (put_in(&self.ours)?, put_in(&self.beside)?);
        }
        Ok(self)
    }

    /// Another in place of ours.
    pub(super) fn with(&self, ours: Gemma) -> Self {
        Self { ours, beside: self.beside.clone() }
    }

    /// Of ours and the one beside it, the one that rounds less.
    pub(super) fn is_beside_wider(&self) -> bool {
        self.beside.dtype() == DType::F64
    }
}

/// A model under several variations, of which those that do not apply change nothing.
pub(super) fn varied(gemma: &Gemma, variations: &[Variation]) -> Result<Gemma> {
    Ok(drift::varied(gemma, variations)?.unwrap_or_else(|| gemma.clone()))
}

/// Words whose logits are computed at a time in f64: a piece of the head is unpacked for them.
const WORDS: usize = 1 << 14;

/// Logits of normed hidden states, `[rows, hidden]` to `[rows, vocab]`.
///
/// # Errors
/// candle's, if memory runs out.
pub(super) fn logits(head: &Head, normed: &Tensor) -> Result<Tensor> {
    if normed.dtype() != DType::F64 {
        return Ok(head.forward(normed)?);
    }
    let vocab = head.vocab_size();
    let pieces = (0..vocab).step_by(WORDS);
    let pieces = pieces.map(|start| head.rows(normed, start, WORDS.min(vocab - start)));
    Ok(Tensor::cat(&pieces.collect::<candle_core::Result<Vec<_>>>()?, 1)?)
}
