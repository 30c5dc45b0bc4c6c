//! Logits as tensors, on any device: a piece of the vocabulary at a time, which all threads read.

use super::batch::{Batch, Lane, POSITIONS};
use super::pieces::Piece;
use super::position::{Buffers, Position};
use crate::drift::values::{Values, with_values};
use crate::error::Result;
use candle_core::Tensor;
use gemma_mlp::internal::threads;
use gemma_mlp::internal::vectorized;
use std::ops::Range;

/// Bytes of logits, as f32 or narrower, that are held at a time for all sides: few enough to stay
/// in a large cache, and to be memory that the allocator keeps from one piece to the next.
const WORKSPACE: usize = 8 << 20;

/// Words of a part, which are added at once, of sides that share out the positions which are compared at a time.
pub(super) fn part(sides: usize) -> usize {
    let sides = sides.max(1);
    words_at_a_time(sides, (POSITIONS / sides).max(1))
}

/// Adds to some positions what the words of a piece say, through heads that may be tensors.
pub(super) fn add(
    batches: &[Batch],
    piece: Piece,
    pairs: &[(usize, usize)],
    positions: &mut [Position],
    progress: &mut dyn FnMut(f64),
) -> Result<()> {
    let Piece { heads, first, part } = piece;
    let lanes: Vec<Lane> = batches.iter().flat_map(|batch| batch.lanes.iter().copied()).collect();
    let logits = |start: usize, len| {
        let all = batches.iter().zip(heads);
        let all = all.map(|(batch, head)| batch.logits(head, start - first, len));
        Ok(all.collect::<Result<Vec<_>>>()?.concat())
    };
    add_words(&lanes, piece.words(), part, logits, pairs, positions, progress)
}

/// What all words say of some positions, by the logits themselves: `[count, vocab]` for
/// each lane.
pub(super) fn positions_of_logits(
    lanes: &[Lane],
    logits: &[Tensor],
    pairs: &[(usize, usize)],
    mut positions: Vec<Position>,
) -> Result<Vec<Position>> {
    let vocab = logits.first().map_or(Ok(0), |logits| logits.dim(1))?;
    let some = |start, len| logits.iter().map(|t| Ok(t.narrow(1, start, len)?)).collect();
    let words = words_at_a_time(lanes.len(), positions.len());
    add_words(lanes, 0..vocab, words, some, pairs, &mut positions, &mut |_| ())?;
    Ok(positions)
}

/// Adds words to some positions, a few at a time. `logits` computes those of some words, `[count, len]` for each
/// lane.
fn add_words(
    lanes: &[Lane],
    words: Range<usize>,
    at_a_time: usize,
    logits: impl Fn(usize, usize) -> Result<Vec<Tensor>>,
    pairs: &[(usize, usize)],
    positions: &mut [Position],
    progress: &mut dyn FnMut(f64),
) -> Result<()> {
    for start in words.clone().step_by(at_a_time) {
        let len = at_a_time.min(words.end - start);
        let logits = logits(start, len)?;
        read_all(&logits, vec![], &mut |values: &[Values]| {
            let nanoseconds = positions.len() * len;
            threads::for_each_with(
                nanoseconds,
                positions.iter_mut().enumerate(),
                || Buffers::new(lanes.len()),
                |buffers, (i, position)| {
                    buffers.clear();
                    for (lane, values) in
                        lanes.iter().zip(values).filter(|(lane, _)| i < lane.count)
                    {
                        let logits = buffers.logits_of(lane.side, len);
                        vectorized(
                            #[inline(always)]
                            || values.widen(i * len..(i + 1) * len, logits),
                        );
                    }
                    position.add(buffers, pairs, start);
                },
            );
        })?;
        progress((start + len - words.start) as f64 / words.len() as f64);
    }
    Ok(())
}

/// Words at a time: as many as fit the workspace, whatever the number of threads.
fn words_at_a_time(sides: usize, positions: usize) -> usize {
    let words = WORKSPACE / 4 / (sides * positions).max(1);
    (words / 64 * 64).clamp(256, 8192)
}

/// Calls `read` with the elements of all tensors.
fn read_all<'a>(
    tensors: &[Tensor],
    read_before: Vec<Values<'a>>,
    read: &mut dyn FnMut(&[Values]),
) -> Result<()> {
    match tensors {
        [] => read(&read_before),
        [first, rest @ ..] => with_values(first, |values| {
            let values = read_before.iter().copied().chain([values]).collect();
            read_all(rest, values, read).map_err(candle_core::Error::wrap)
        })?,
    }
    Ok(())
}
