//! Logits as tensors, on any device: a piece of the vocabulary at a time, which all threads read.

use super::batch::{Batch, Lane};
use super::position::{Buffers, Position};
use crate::drift::values::{Values, with_values};
use crate::error::Result;
use candle_core::Tensor;
use gemma_mlp::internal::threads;
use gemma_mlp::internal::vectorized;

/// Bytes of logits, as f32 or narrower, that are held at a time for all sides: few enough to stay
/// in a large cache, and to be memory that the allocator keeps from one piece to the next.
const WORKSPACE: usize = 8 << 20;

/// What all words say of some positions, through heads that are tensors.
pub(super) fn positions(
    batches: &[Batch],
    pairs: &[(usize, usize)],
    positions: Vec<Position>,
    progress: &mut dyn FnMut(f64),
) -> Result<Vec<Position>> {
    let lanes: Vec<Lane> = batches.iter().flat_map(|batch| batch.lanes.iter().copied()).collect();
    let vocab = batches.first().map_or(0, |batch| batch.head.vocab_size());
    let logits = |start, len| {
        let all = batches.iter().map(|batch| batch.logits(start, len));
        Ok(all.collect::<Result<Vec<_>>>()?.concat())
    };
    add_words(&lanes, vocab, logits, pairs, positions, progress)
}

/// What all words say of some positions, by the logits themselves: `[count, vocab]` for
/// each lane.
pub(super) fn positions_of_logits(
    lanes: &[Lane],
    logits: &[Tensor],
    pairs: &[(usize, usize)],
    positions: Vec<Position>,
) -> Result<Vec<Position>> {
    let vocab = logits.first().map_or(Ok(0), |logits| logits.dim(1))?;
    let some = |start, len| logits.iter().map(|t| Ok(t.narrow(1, start, len)?)).collect();
    add_words(lanes, vocab, some, pairs, positions, &mut |_| ())
}

/// Adds all words to some positions. `logits` computes those of some words, `[count, len]` for each
/// lane.
fn add_words(
    lanes: &[Lane],
    vocab: usize,
    logits: impl Fn(usize, usize) -> Result<Vec<Tensor>>,
    pairs: &[(usize, usize)],
    mut positions: Vec<Position>,
    progress: &mut dyn FnMut(f64),
) -> Result<Vec<Position>> {
    let words = words_at_a_time(lanes.len(), positions.len(), vocab);
    for start in (0..vocab).step_by(words) {
        let len = words.min(vocab - start);
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
        progress((start + len) as f64 / vocab as f64);
    }
    Ok(positions)
}

/// Words at a time: as many as fit the workspace, whatever the number of threads.
fn words_at_a_time(sides: usize, positions: usize, vocab: usize) -> usize {
    let words = WORKSPACE / 4 / (sides * positions).max(1);
    (words / 64 * 64).clamp(256, 8192).min(vocab.max(1))
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
