//! The loss behind a head, and its gradient.

use super::softmax::{Softmax, largest_of, place};
use crate::drift::values::with_values;
use crate::error::Result;
use candle_core::{Device, Tensor};
use gemma_mlp::internal::{exp, threads, vectorized, wide_dtype};
use gemma_mlp::model::Head;

/// Words whose logits are held at a time.
const PIECE: usize = 4096;

/// The mean negative log-likelihood of the labels, in nats, and its gradient for the hidden states,
/// `[n, hidden]` like these: a piece of the vocabulary at a time, the softmax in f64. PyTorch's f32
/// log-softmax is off by 3e-5 nats a position on 262,144 words.
pub(in crate::drift) fn loss(
    head: &Head,
    hidden: &Tensor,
    labels: &[Option<u32>],
) -> Result<(f64, Tensor)> {
    let count = labels.iter().flatten().count() as f64;
    let pieces = || (0..head.vocab_size()).step_by(PIECE);
    let len = |start: usize| PIECE.min(head.vocab_size() - start);
    let mut positions: Vec<Labelled> = labels.iter().map(|&label| Labelled::new(label)).collect();
    for start in pieces() {
        let logits = head.rows(hidden, start, len(start))?; // [n, len]
        for_each_position(&logits, &mut positions, |position, logits| position.add(logits, start))?;
    }
    let labelled = positions.iter().filter(|position| position.label.is_some());
    let loss = labelled.map(|position| position.softmax.nll()).sum::<f64>() / count;
    // Its sums over the vocabulary are f32, or f64 in an f64 model.
    let wide = wide_dtype(hidden.dtype());
    let mut gradient = hidden.to_dtype(wide)?.zeros_like()?;
    for start in pieces() {
        let logits = head.rows(hidden, start, len(start))?;
        let mut pulls = vec![vec![0f64; len(start)]; positions.len()];
        let mut paired: Vec<_> = positions.iter().zip(&mut pulls).collect();
        for_each_position(&logits, &mut paired, |(position, pull), logits| {
            position.pull(logits, start, count, head.softcap(), pull);
        })?;
        let shape = (positions.len(), len(start));
        let pulls = Tensor::from_vec(pulls.concat(), shape, &Device::Cpu)?;
        let pulls = pulls.to_dtype(wide)?.to_device(hidden.device())?;
        let weight = head.weight().narrow(start, len(start))?.to_tensor(wide)?;
        gradient = (gradient + pulls.matmul(&weight)?)?;
    }
    Ok((loss, gradient.to_dtype(hidden.dtype())?))
}

/// Calls `work` with every position and its logits, out of `[n, len]`, as f64.
fn for_each_position<R: Send>(
    logits: &Tensor,
    positions: &mut [R],
    work: impl Fn(&mut R, &[f64]) + Sync,
) -> Result<()> {
    let len = logits.dim(1)?;
    Ok(with_values(logits, |values| {
        threads::for_each_with(
            positions.len() * len,
            positions.iter_mut().enumerate(),
            || vec![0.0; len],
            |wide, (i, position)| {
                vectorized(
                    #[inline(always)]
                    || values.widen(i * len..(i + 1) * len, wide),
                );
                work(position, wide);
            },
        );
        Ok(())
    })?)
}

/// A position, which counts in the loss if it has a label.
struct Labelled {
    label: Option<u32>,
    softmax: Softmax,
}

impl Labelled {
    fn new(label: Option<u32>) -> Self {
        Self { label, softmax: Softmax::new() }
    }

    /// Adds a piece of the vocabulary, from the word `start` on.
    fn add(&mut self, logits: &[f64], start: usize) {
        let softmax = &mut self.softmax;
        softmax.find(self.label, logits, start);
        vectorized(
            #[inline(always)]
            || {
                softmax.raise(largest_of(logits));
                softmax.sum += exp_sum(logits, softmax.max);
            },
        );
    }

    /// The mean loss's gradient for the logits before the soft-cap.
    fn pull(&self, logits: &[f64], start: usize, count: f64, cap: Option<f64>, pull: &mut [f64]) {
        if self.label.is_none() {
            return;
        }
        let Softmax { max, sum, .. } = self.softmax;
        let scale = 1.0 / (sum * count);
        vectorized(
            #[inline(always)]
            || {
                for (p, z) in pull.iter_mut().zip(logits) {
                    *p = exp(z - max) * scale;
                }
            },
        );
        if let Some(at) = place(self.label, start, logits.len()) {
            pull[at] -= 1.0 / count;
        }
        if let Some(cap) = cap {
            let slope = |z: f64| 1.0 - (z / cap).powi(2);
            pull.iter_mut().zip(logits).for_each(|(p, &z)| *p *= slope(z));
        }
    }
}

/// Σ exp(z − max) in eight parts, which a vector register holds.
#[inline(always)]
fn exp_sum(logits: &[f64], max: f64) -> f64 {
    let mut sums = [0.0; 8];
    let (whole, rest) = logits.as_chunks::<8>();
    for z in whole {
        for i in 0..8 {
            sums[i] += exp(z[i] - max);
        }
    }
    for z in rest {
        sums[0] += exp(z - max);
    }
    sums.iter().sum()
}
