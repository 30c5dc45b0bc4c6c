//! What a block is fed with.

use super::layer::load_norm;
use super::{LayerFront, embed};
use crate::checkpoint::{BlockSpec, Checkpoint};
use crate::{Error, Result};
use candle_core::{Device, Module, Tensor};
use rand::{SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, StandardNormal};
use serde::Serialize;

/// Token ids of one text or of a batch of equally long ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIds {
    ids: Vec<u32>,
    batch: usize,
}

impl TokenIds {
    /// One text.
    ///
    /// # Errors
    /// No ids.
    pub fn single(ids: Vec<u32>) -> Result<Self> {
        Self::batched(vec![ids])
    }

    /// A batch.
    ///
    /// # Errors
    /// No ids, texts of different lengths.
    pub fn batched(texts: Vec<Vec<u32>>) -> Result<Self> {
        let seq_len = texts.first().map_or(0, Vec::len);
        if seq_len == 0 {
            return Err(Error::Input("there are no token ids; pass at least one".into()));
        }
        if let Some((i, odd)) = texts.iter().enumerate().find(|(_, ids)| ids.len() != seq_len) {
            return Err(Error::Input(format!(
                "the texts of a batch must be equally long: number 0 has {seq_len} ids, number {i} has {}",
                odd.len()
            )));
        }
        Ok(Self { batch: texts.len(), ids: texts.concat() })
    }

    /// Reads a JSON array of ids, or an array of equally long arrays of ids.
    ///
    /// # Errors
    /// Anything else; the sentence says what was found.
    pub fn from_json(json: &str) -> Result<Self> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Ids {
            Single(Vec<u32>),
            Batch(Vec<Vec<u32>>),
        }
        match serde_json::from_str(json) {
            Ok(Ids::Single(ids)) => Self::single(ids),
            Ok(Ids::Batch(texts)) => Self::batched(texts),
            Err(_) => Err(Error::Input(
                "not a JSON array of token ids, nor an array of such arrays, as in [2, 818, 63937]"
                    .into(),
            )),
        }
    }

    /// All ids, one text behind the other.
    pub fn as_slice(&self) -> &[u32] {
        &self.ids
    }

    /// How many texts there are.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// How long each text is.
    pub fn seq_len(&self) -> usize {
        self.ids.len() / self.batch
    }
}

/// Where a block's input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum InputKind {
    /// The model's own: embeddings of the token ids, through the layer's attention and norms.
    Model,
    /// Seeded Gaussian noise of RMS 1 through the layer's own norm. What the layers before would
    /// have made of the text is not known here.
    Gaussian,
}

impl InputKind {
    /// The word that reports use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Gaussian => "gaussian",
        }
    }
}

/// The input of a block for token ids: `[batch, seq, hidden]` in f32.
///
/// # Errors
/// An id out of the vocabulary, a tensor that is missing or does not fit.
pub fn mlp_input(
    checkpoint: &Checkpoint,
    block: &BlockSpec,
    ids: &TokenIds,
    device: &Device,
) -> Result<(Tensor, InputKind)> {
    let stack = &checkpoint.config().stacks[0];
    match &stack.attention {
        Ok(attention) if block.index == 0 => {
            let front = LayerFront::load(checkpoint, block, attention, 0, device)?;
            let input = front.mlp_input(&embed(checkpoint, block, ids, device)?)?;
            Ok((input, InputKind::Model))
        }
        _ => Ok((gaussian_input(checkpoint, block, ids, device)?, InputKind::Gaussian)),
    }
}

/// Noise of RMS 1 in every position, seeded by the block's index, through the block's norm.
fn gaussian_input(
    checkpoint: &Checkpoint,
    block: &BlockSpec,
    ids: &TokenIds,
    device: &Device,
) -> Result<Tensor> {
    let shape = (ids.batch(), ids.seq_len(), block.hidden_size);
    let rng = StdRng::seed_from_u64(block.index as u64);
    let noise: Vec<f32> =
        StandardNormal.sample_iter(rng).take(shape.0 * shape.1 * shape.2).collect();
    let norm = load_norm(checkpoint, block, &block.norm, device)?;
    Ok(norm.forward(&Tensor::from_vec(noise, shape, device)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_one_text_or_a_batch() {
        let ids = TokenIds::from_json("[2, 5, 9]").unwrap();
        assert_eq!((ids.batch(), ids.seq_len()), (1, 3));
        let ids = TokenIds::from_json("[[2, 5], [9, 1]]").unwrap();
        assert_eq!((ids.batch(), ids.seq_len(), ids.as_slice()), (2, 2, &[2, 5, 9, 1][..]));
        for json in ["", "[]", "[[]]", "[[1], [1, 2]]", "[-1]", "[1.5]", "{}", "[4294967296]"] {
            assert!(TokenIds::from_json(json).is_err(), "{json}");
        }
    }
}
