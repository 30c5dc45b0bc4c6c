//! What a model computed, as it was captured: by whatever program, in whatever format.

use super::plane::{Glimpse, Plane};
use super::point::Point;
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
