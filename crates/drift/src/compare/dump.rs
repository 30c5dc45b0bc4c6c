//! What a model computed, as it was captured: by whatever program, in whatever format.

use super::assemble::{Array, Assembly, Elements};
use super::names::Names;
use super::plane::{Glimpse, Plane};
use super::point::Point;
use crate::error::Result;
use candle_core::Tensor;
use gemma_mlp::checkpoint::Remark;
use std::collections::BTreeMap;

/// What a model computed on some texts.
#[derive(Debug, Clone, Default)]
pub struct Dump {
    /// The file, folder or server it comes from.
    pub source: String,
    /// Which format it is in, in words.
    pub format: &'static str,
    /// What it says of itself, by the keys of our own format: `framework`, `dtype`, `attention`,
    /// `first_mlp_sha256` and so on.
    pub metadata: BTreeMap<String, String>,
    /// The texts of its batch.
    pub texts: Vec<DumpText>,
    /// What was not read, was guessed, or is odd.
    pub remarks: Vec<Remark>,
}

impl Dump {
    /// One of tensors in memory, by their canonical names or any that [`Names`] knows: as if they had been
    /// read from a file `source` with this metadata.
    ///
    /// # Errors
    /// No tensor of a known name, two of one meaning, `tokens` or `positions` that are none; candle's.
    pub fn from_tensors(
        source: &str,
        metadata: BTreeMap<String, String>,
        tensors: impl IntoIterator<Item = (String, Tensor)>,
        names: &Names,
    ) -> Result<Self> {
        let mut assembly = Assembly::new(source, names);
        for (name, tensor) in tensors {
            let shape = tensor.dims().to_vec();
            assembly.add(&name, || Ok(Array { shape, elements: Elements::Memory(tensor) }))?;
        }
        let dump = assembly.finish(metadata)?;
        Ok(Self { format: "tensors in memory", ..dump })
    }
}

/// What a model computed on one text. Anything may be missing.
#[derive(Debug, Clone, Default)]
pub struct DumpText {
    /// The token ids that were run.
    pub tokens: Option<Vec<u32>>,
    /// The numbers of each point that is there, `[positions, …]`.
    pub planes: BTreeMap<Point, Plane>,
    /// Points of which a few numbers are known.
    pub glimpses: BTreeMap<Point, Glimpse>,
    /// The positions that the rows of the logits belong to, where the dump says it.
    pub logit_positions: Option<Vec<usize>>,
    /// The likeliest tokens to follow some positions.
    pub likeliest: Vec<Likeliest>,
}

/// What a model says of the token that follows a position: the log-probabilities of the likeliest ones,
/// and perhaps of the one that does follow.
#[derive(Debug, Clone, PartialEq)]
pub struct Likeliest {
    /// The position, from 0 on: that of the last token which the model had read.
    pub position: usize,
    /// Tokens and their log-probabilities in nats, each token once.
    pub tokens: Vec<(Word, f64)>,
}

/// A token as programs name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Word {
    /// By its id.
    Id(u32),
    /// By its text, which several tokens may share.
    Text(String),
}
