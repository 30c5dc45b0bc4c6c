//! The pass through packed heads: threads share the vocabulary out, and logits stay in the cache
//! that they were computed in.

use super::batch::{Batch, Lane};
use super::position::{Buffers, Position};
use candle_core::{DType, Result};
use gemma_mlp::Float;
use gemma_mlp::internal::{Rows, nearest_bf16, threads, vectorized, widen_bf16, with_slice};
use gemma_mlp::linear::{Packed, Weight};
use half::{bf16, f16};
use std::ops::Range;

/// Words at a time: few enough for their logits at all positions, up to a MiB, to stay in the caches
/// of one core or close to them, many enough for what is done once a piece not to count.
const PIECE: usize = 256;

/// Into how many parts the vocabulary is shared out, whatever the number of threads: enough for
/// all of them to end together.
const PARTS: usize = 64;

/// A batch as its head's weight takes it.
#[derive(Clone, Copy)]
struct Input<'a> {
    weight: &'a Packed,
    x: Rows<'a>,
    lanes: &'a [Lane],
    /// What logits are rounded to.
    dtype: DType,
}

/// What all words say of some positions, which are `blank` so far; `None` if a head is not packed,
/// or has a soft-cap.
pub(super) fn positions(
    batches: &[Batch],
    pairs: &[(usize, usize)],
    blank: &[Position],
) -> Result<Option<Vec<Position>>> {
    let packed = |batch: &Batch| match batch.head.weight() {
        Weight::Packed(_) => batch.head.softcap().is_none(),
        Weight::Tensor(_) => false,
    };
    if !batches.iter().all(packed) {
        return Ok(None);
    }
    let mut positions = blank.to_vec();
    with_inputs(batches, vec![], &mut |inputs| {
        let vocab = inputs.first().map_or(0, |input| input.weight.out_features());
        let part = vocab.div_ceil(PARTS).next_multiple_of(PIECE);
        let starts = (0..vocab).step_by(part.max(1));
        let parts = threads::map(vocab * blank.len(), starts, |start| {
            add_words(inputs, pairs, start..vocab.min(start + part), blank.to_vec())
        });
        for part in parts {
            positions
                .iter_mut()
                .zip(&part)
                .for_each(|(position, more)| position.merge(more, pairs));
        }
    })?;
    Ok(Some(positions))
}

/// Calls `run` with all batches as the weights take them.
fn with_inputs(batches: &[Batch], before: Vec<Input>, run: &mut dyn FnMut(&[Input])) -> Result<()> {
    match batches {
        [] => {
            run(&before);
            Ok(())
        }
        [batch, ..] => match batch.hidden.dtype() {
            DType::BF16 => with_input::<bf16>(batches, before, run),
            DType::F16 => with_input::<f16>(batches, before, run),
            _ => with_input::<f32>(batches, before, run),
        },
    }
}

/// Calls `run` with batches of which the first one's type is known, after those before them.
fn with_input<T: Float>(
    batches: &[Batch],
    before: Vec<Input>,
    run: &mut dyn FnMut(&[Input]),
) -> Result<()> {
    let [Batch { head, hidden, lanes }, rest @ ..] = batches else { return Ok(()) };
    let Weight::Packed(weight) = head.weight() else {
        candle_core::bail!("the head is not packed")
    };
    with_slice::<T, _>(&hidden.contiguous()?, |hidden| {
        weight.with_rows(hidden, |x| {
            let input = Input { weight, x, lanes, dtype: T::DTYPE };
            with_inputs(rest, before.into_iter().chain([input]).collect(), run)
        })
    })?
}

/// Adds some words, piece by piece.
fn add_words(
    inputs: &[Input],
    pairs: &[(usize, usize)],
    words: Range<usize>,
    mut positions: Vec<Position>,
) -> Vec<Position> {
    let mut buffers = Buffers::new(inputs.iter().map(|input| input.lanes.len()).sum());
    for start in words.clone().step_by(PIECE) {
        let piece = start..words.end.min(start + PIECE);
        with_sums(inputs, &piece, vec![], &mut |sums| {
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
