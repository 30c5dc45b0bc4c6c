//! The pass through packed heads: threads share the vocabulary out, and logits stay in the cache
//! that they were computed in.

use super::batch::{Batch, Lane};
use super::pieces::Piece;
use super::position::{Buffers, Position};
use crate::error::Result;
use candle_core::{DType, Tensor};
use gemma_mlp::Float;
use gemma_mlp::internal::{Rows, nearest_bf16, threads, vectorized, widen_bf16, with_slice};
use gemma_mlp::linear::{Panels, Weight};
use gemma_mlp::model::Head;
use half::{bf16, f16};
use std::ops::Range;

/// Words at a time: few enough for their logits at all positions, up to a MiB, to stay in the caches
/// of one core or close to them, many enough for what is done once a piece not to count.
const PIECE: usize = 256;

/// Into how many parts the vocabulary is shared out at least, whatever the number of threads: enough for
/// all of them to end together.
const PARTS: usize = 64;

/// Bytes of a part's weights at most: few enough for a piece of a head in a file to have parts for all threads.
const BYTES: usize = 8 << 20;

/// A batch as its head's weight takes it.
#[derive(Clone, Copy)]
struct Input<'a> {
    weight: &'a Panels,
    x: Rows<'a>,
    lanes: &'a [Lane],
    /// What logits are rounded to.
    dtype: DType,
}

/// Whether all heads are packed, none has a soft-cap, and no side is in f64.
pub(super) fn takes(sides: &[(&Head, Tensor)]) -> bool {
    let takes = |(head, hidden): &(&Head, Tensor)| {
        let is_packed = matches!(head.weight(), Weight::Packed(_));
        is_packed && head.softcap().is_none() && hidden.dtype() != DType::F64
    };
    sides.iter().all(takes)
}

/// Words of a part of heads of one vocabulary.
pub(super) fn part(heads: &[&Head]) -> usize {
    let words = heads.first().map_or(0, |head| head.vocab_size()).div_ceil(PARTS);
    let bytes = |head: &&Head| match head.weight() {
        Weight::Packed(weight) => weight.in_features() * weight.dtype().size_in_bytes(),
        Weight::Tensor(_) => 0,
    };
    let widest = heads.iter().map(bytes).max().unwrap_or(0).max(1);
    words.next_multiple_of(PIECE).min(BYTES / widest / PIECE * PIECE).max(PIECE)
}

/// Adds to some positions what the words of a piece say. `blank` is what is known of the positions before the first word.
pub(super) fn add(
    batches: &[Batch],
    piece: Piece,
    pairs: &[(usize, usize)],
    blank: &[Position],
    positions: &mut [Position],
) -> Result<()> {
    let Piece { heads, part, .. } = piece;
    let words = piece.words();
    let weights = heads.iter().map(|head| match head.weight() {
        Weight::Packed(weight) => weight.panels(),
        Weight::Tensor(_) => candle_core::bail!("the head is not packed"),
    });
    let weights = weights.collect::<candle_core::Result<Vec<_>>>()?;
    with_inputs(batches, &weights, vec![], &mut |inputs| {
        let starts = words.clone().step_by(part);
        let parts = threads::map(words.len() * blank.len(), starts, |start| {
            let piece = start..words.end.min(start + part);
            add_words(inputs, pairs, piece, words.start, blank.to_vec())
        });
        for part in parts {
            positions
                .iter_mut()
                .zip(&part)
                .for_each(|(position, more)| position.merge(more, pairs));
        }
    })
}

/// Calls `run` with all batches as the weights take them.
fn with_inputs(
    batches: &[Batch],
    weights: &[Panels],
    before: Vec<Input>,
    run: &mut dyn FnMut(&[Input]),
) -> Result<()> {
    let ([batch, batches @ ..], [weight, weights @ ..]) = (batches, weights) else {
        run(&before);
        return Ok(());
    };
    let rest = (batches, weights);
    match batch.hidden.dtype() {
        DType::BF16 => with_input::<bf16>(batch, weight, rest, before, run),
        DType::F16 => with_input::<f16>(batch, weight, rest, before, run),
        _ => with_input::<f32>(batch, weight, rest, before, run),
    }
}

/// Calls `run` with batches of which the first one's type is known, after those before them.
fn with_input<T: Float>(
    Batch { hidden, lanes }: &Batch,
    weight: &Panels,
    (batches, weights): (&[Batch], &[Panels]),
    before: Vec<Input>,
    run: &mut dyn FnMut(&[Input]),
) -> Result<()> {
    with_slice::<T, _>(&hidden.contiguous()?, |hidden| {
        weight.with_rows(hidden, |x| {
            let input = Input { weight, x, lanes, dtype: T::DTYPE };
            with_inputs(batches, weights, before.into_iter().chain([input]).collect(), run)
        })
    })?
}

/// Adds some words, piece by piece; the weights' first row is the word `first`.
fn add_words(
    inputs: &[Input],
    pairs: &[(usize, usize)],
    words: Range<usize>,
    first: usize,
    mut positions: Vec<Position>,
) -> Vec<Position> {
    let mut buffers = Buffers::new(inputs.iter().map(|input| input.lanes.len()).sum());
    for start in words.clone().step_by(PIECE) {
        let piece = start..words.end.min(start + PIECE);
        let rows = piece.start - first..piece.end - first;
        with_sums(inputs, &rows, vec![], &mut |sums| {
            for (at, position) in positions.iter_mut().enumerate() {
                buffers.clear();
                for (input, sums) in inputs.iter().zip(sums) {
                    input.read(at, piece.len(), sums, &mut buffers);
                }
                position.add(&mut buffers, pairs, start);
            }
        });
    }
    positions
}

/// Calls `f` with the logits of some words for every input, before they are rounded.
fn with_sums(
    inputs: &[Input],
    words: &Range<usize>,
    before: Vec<&[f32]>,
    f: &mut dyn FnMut(&[&[f32]]),
) {
    match inputs {
        [] => f(&before),
        [first, rest @ ..] => first.weight.sums(first.x, words.clone(), |sums| {
            with_sums(rest, words, before.iter().copied().chain([&*sums]).collect(), f);
        }),
    }
}

impl Input<'_> {
    /// Reads a position's logits of `len` words, out of the sums of all of them.
    fn read(&self, position: usize, len: usize, sums: &[f32], buffers: &mut Buffers) {
        for lane in self.lanes.iter().filter(|lane| position < lane.count) {
            let width = sums.len() / self.x.count();
            let sums = &sums[(lane.first + position) * width..][..len];
            let logits = buffers.logits_of(lane.side, len);
            vectorized(
                #[inline(always)]
                || round(sums, self.dtype, logits),
            );
        }
    }
}

/// Rounds sums to a dtype.
#[inline(always)]
fn round(sums: &[f32], dtype: DType, logits: &mut [f64]) {
    let logits = logits.iter_mut().zip(sums);
    match dtype {
        DType::BF16 => logits.for_each(|(logit, &x)| *logit = widen_bf16(nearest_bf16(x))),
        DType::F16 => logits.for_each(|(logit, &x)| *logit = f16::from_f32(x).to_f64()),
        _ => logits.for_each(|(logit, &x)| *logit = f64::from(x)),
    }
}
