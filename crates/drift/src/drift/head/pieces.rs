//! Heads in memory: all of them at once, or, where they are in files, a piece at a time.

use crate::error::{Error, Result};
use gemma_mlp::internal::threads;
use gemma_mlp::linear::{Packed, Weight, in_pieces};
use gemma_mlp::model::Head;
use std::ops::Range;

/// Some words of heads of one vocabulary.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    /// The heads of these words.
    pub(super) heads: &'a [Head],
    /// Its first word.
    pub(super) first: usize,
    /// Words of a part: the piece begins with one, and they are summed up as they would be in a piece of all words.
    pub(super) part: usize,
}

impl Piece<'_> {
    pub(super) fn words(&self) -> Range<usize> {
        let len = self.heads.first().map_or(0, |head| head.vocab_size());
        self.first..self.first + len
    }
}

/// Calls `f` with all words of heads of one vocabulary, in pieces of whole parts. Every head is read once.
pub(super) fn each(
    heads: &[&Head],
    part: usize,
    mut f: impl FnMut(Piece) -> Result<()>,
) -> Result<()> {
    let of_head = |head: &&Head| match head.weight() {
        Weight::Packed(packed) => Some(packed.clone()),
        Weight::Tensor(_) => None,
    };
    let Some(weights) = heads.iter().map(of_head).collect::<Option<Vec<Packed>>>() else {
        let heads: Vec<Head> = heads.iter().map(|&head| head.clone()).collect();
        return f(Piece { heads: &heads, first: 0, part });
    };
    let mut distinct: Vec<&Packed> = vec![];
    let mut places = vec![];
    for weight in &weights {
        let at = distinct.iter().position(|other| other.shares_storage(weight));
        places.push(at.unwrap_or(distinct.len()));
        if at.is_none() {
            distinct.push(weight);
        }
    }
    // A part is one thread's work.
    let multiple = part * threads::available();
    in_pieces::<Error>(&distinct, multiple, |first, pieces| {
        let head = |(head, &at): (&&Head, &usize)| {
            Ok(head.with_weight(Weight::Packed(pieces[at].clone()))?)
        };
        let heads = heads.iter().zip(&places).map(head).collect::<Result<Vec<_>>>()?;
        f(Piece { heads: &heads, first, part })
    })
}
