//! Drift of the loss's gradients.

use super::lockstep::Lockstep;
use super::metrics::{Accumulator, nan_from_null};
use super::options::DriftOptions;
use super::positions::pair_from_nulls;
use super::side::distinct;
use super::values::with_values;
use super::window::Window;
use crate::input::TokenIds;
use candle_core::{Device, Tensor, Var};
use gemma_mlp::Checkpoint;
use gemma_mlp::internal::threads;
use gemma_mlp::internal::wide_dtype;
use gemma_mlp::internal::{exp, vectorized};
use gemma_mlp::{Error, Result};
use gemma_mlp::{Gemma, model::Head};
use serde::{Deserialize, Serialize};

/// The gradients of two sides' losses: the mean negative log-likelihood of the next token over the
/// first window.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct GradientDrift {
    /// Tokens of the window.
    pub gradient_tokens: usize,
    /// The loss of a and of b, in nats.
    #[serde(deserialize_with = "pair_from_nulls")]
    pub loss: [f64; 2],
    /// Of the scaled input embeddings.
    pub input_gradient: GradientMetrics,
    /// Of each layer's weights.
    pub gradients: Vec<LayerGradients>,
}

/// How far two gradients are apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct GradientMetrics {
    /// ‖b − a‖/‖a‖.
    #[serde(deserialize_with = "nan_from_null")]
    pub rel_l2: f64,
    /// a·b / (‖a‖·‖b‖).
    #[serde(deserialize_with = "nan_from_null")]
    pub cosine: f64,
}

/// The gradients of a block's weights, and what rounding alone does to them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct LayerGradients {
    /// Which layer.
    pub index: usize,
    /// Of the pair of sides.
    #[serde(flatten)]
    pub drift: BlockGradients,
    /// Of the pair that differs by rounding alone.
    pub floor: BlockGradients,
}

/// The gradients of a block's three matrices.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct BlockGradients {
    /// `gate_proj`'s.
    pub gate_proj: GradientMetrics,
    /// `up_proj`'s.
    pub up_proj: GradientMetrics,
    /// `down_proj`'s.
    pub down_proj: GradientMetrics,
}

/// Measures the gradient drift between the options' sides, and that of the floor's.
///
/// The backward pass goes layer by layer from saved residual streams, all sides side by side, so
/// that the gradients of one layer are held at a time. `progress` is called after each layer with
/// how many are done.
///
/// # Errors
/// A family whose whole model does not run here, an encoder without a head, a text of one token.
pub fn gradient_drift(
    checkpoint: &Checkpoint,
    texts: &[Vec<u32>],
    options: &DriftOptions,
    device: &Device,
    mut progress: impl FnMut(usize),
) -> Result<GradientDrift> {
    let windows = options.windows(checkpoint, texts)?;
    let window = windows.first().filter(|window| window.ids.len() > 1);
    let window =
        window.ok_or_else(|| Error::Input("a loss needs a text of at least two tokens".into()))?;
    let ids = TokenIds::single(window.ids.clone())?;
    let (pair, floor) = (options.sides, options.floor_sides);
    let (sides, [a, b, floor_a, floor_b]) = distinct([pair.a, pair.b, floor.a, floor.b]);
    let lockstep = Lockstep::load(checkpoint, &sides, device)?;
    let mut passes = (0..sides.len())
        .map(|side| Pass::forward(lockstep.model(side), &ids.tensor(device)?, window))
        .collect::<Result<Vec<_>>>()?;
    let mut gradients = vec![];
    for index in (0..lockstep.layers()).rev() {
        let layer =
            passes.iter_mut().map(|pass| pass.backward(index)).collect::<Result<Vec<_>>>()?;
        let compare = |a: usize, b: usize| block_gradients(&layer[a], &layer[b]);
        let (drift, floor) = (compare(a, b)?, compare(floor_a, floor_b)?);
        gradients.push(LayerGradients { index, drift, floor });
        progress(gradients.len());
    }
    gradients.reverse();
    Ok(GradientDrift {
        gradient_tokens: window.ids.len(),
        loss: [passes[a].loss, passes[b].loss],
        input_gradient: metrics(&passes[a].gradient, &passes[b].gradient)?,
        gradients,
    })
}

/// One side's pass: forward, and then backward layer by layer.
struct Pass {
    gemma: Gemma,
    /// What enters each layer, `[1, seq, hidden]`.
    streams: Vec<Tensor>,
    loss: f64,
    /// The loss's gradient for what the last layer so far returned, `[1, seq, hidden]`.
    gradient: Tensor,
}

impl Pass {
    fn forward(gemma: Gemma, ids: &Tensor, window: &Window) -> Result<Self> {
        let Some(head) = gemma.head() else {
            return Err(Error::Input("an encoder without a head has no loss".into()));
        };
        let mut streams = vec![gemma.embed(ids)?];
        let mut x = streams[0].clone();
        for layer in gemma.layers() {
            x = layer.forward(&x, None)?;
            streams.push(x.clone());
        }
        streams.pop();
        let last = Var::from_tensor(&x)?;
        let hidden = gemma.final_norm(&last)?;
        let labels: Vec<_> =
            (1..window.ids.len()).map(|i| Some(window.ids[i])).chain([None]).collect();
        let (loss, gradient) = head_gradient(head, &hidden.detach().get(0)?, &labels)?;
        let pulled = (hidden * gradient.unsqueeze(0)?)?.sum_all()?.backward()?;
        let gradient = of(&pulled, &last)?;
        Ok(Self { gemma, streams, loss, gradient })
    }

    /// Goes back through a layer: leaves the gradient for its input, and returns those of its
    /// block's weights.
    fn backward(&mut self, index: usize) -> Result<Vec<Tensor>> {
        let mut layer = self.gemma.layers()[index].clone();
        let (mlp, variables) = layer.mlp().with_variables()?;
        layer = layer.with_frozen_attention().with_mlp(mlp);
        let x = Var::from_tensor(&self.streams[index])?;
        let y = layer.forward(&x, None)?;
        let pulled = (y * &self.gradient)?.sum_all()?.backward()?;
        self.gradient = of(&pulled, &x)?;
        let gradients: Result<Vec<_>> = variables.iter().map(|v| of(&pulled, v)).collect();
        match gradients?.as_slice() {
            [gate_up, down] => {
                let mut all = gate_up.chunk(2, 0)?;
                all.push(down.clone());
                Ok(all)
            }
            separate => Ok(separate.to_vec()),
        }
    }
}

fn of(gradients: &candle_core::backprop::GradStore, variable: &Var) -> Result<Tensor> {
    // A loss that does not depend on a variable leaves it without a gradient.
    Ok(match gradients.get(variable) {
        Some(gradient) => gradient.clone(),
        None => variable.zeros_like()?,
    })
}

fn metrics(a: &Tensor, b: &Tensor) -> Result<GradientMetrics> {
    let mut sums = Accumulator::default();
    sums.add(a, b)?;
    let metrics = sums.metrics();
    Ok(GradientMetrics { rel_l2: metrics.rel_l2, cosine: metrics.cosine })
}

fn block_gradients(a: &[Tensor], b: &[Tensor]) -> Result<BlockGradients> {
    let of = |i: usize| metrics(&a[i], &b[i]);
    Ok(BlockGradients { gate_proj: of(0)?, up_proj: of(1)?, down_proj: of(2)? })
}

/// Words whose logits are held at a time.
const TILE: usize = 4096;

/// The mean loss, and its gradient for the hidden states, both `[n, hidden]`: a piece of the
/// vocabulary at a time, the softmax in f64. PyTorch's f32 log-softmax is off by 3e-5 nats a
/// position on 262,144 words.
fn head_gradient(head: &Head, hidden: &Tensor, labels: &[Option<u32>]) -> Result<(f64, Tensor)> {
    let count = labels.iter().flatten().count() as f64;
    let tiles = || (0..head.vocab_size()).step_by(TILE);
    let len = |start: usize| TILE.min(head.vocab_size() - start);
    let mut rows: Vec<Softmax> = labels.iter().map(|&label| Softmax::new(label)).collect();
    for start in tiles() {
        let logits = head.rows(hidden, start, len(start))?; // [n, len]
        for_each_row(&logits, &mut rows, |row, logits| row.add(logits, start))?;
    }
    let loss = rows.iter().filter(|row| row.label.is_some()).map(Softmax::nll).sum::<f64>() / count;
    // Its sums over the vocabulary are f32, or f64 in an f64 model.
    let wide = wide_dtype(hidden.dtype());
    let mut gradient = hidden.to_dtype(wide)?.zeros_like()?;
    for start in tiles() {
        let logits = head.rows(hidden, start, len(start))?;
        let mut pulls = vec![vec![0f64; len(start)]; rows.len()];
        let mut paired: Vec<_> = rows.iter().zip(&mut pulls).collect();
        for_each_row(&logits, &mut paired, |(row, pull), logits| {
            row.pull(logits, start, count, head.softcap(), pull);
        })?;
        let shape = (rows.len(), len(start));
        let pulls = Tensor::from_vec(pulls.concat(), shape, &Device::Cpu)?;
        let pulls = pulls.to_dtype(wide)?.to_device(hidden.device())?;
        let weight = head.weight().narrow(start, len(start))?.to_tensor(wide)?;
        gradient = (gradient + pulls.matmul(&weight)?)?;
    }
    Ok((loss, gradient.to_dtype(hidden.dtype())?))
}

/// Calls `work` with every row of logits, `[n, len]`, as f64.
fn for_each_row<R: Send>(
    logits: &Tensor,
    rows: &mut [R],
    work: impl Fn(&mut R, &[f64]) + Sync,
) -> Result<()> {
    let len = logits.dim(1)?;
    Ok(with_values(logits, |values| {
        threads::for_each_with(
            rows.len() * len,
            rows.iter_mut().enumerate(),
            || vec![0.0; len],
            |wide, (i, row)| {
                vectorized(
                    #[inline(always)]
                    || values.widen(i * len..(i + 1) * len, wide),
                );
                work(row, wide);
            },
        );
        Ok(())
    })?)
}

/// A position's softmax so far.
struct Softmax {
    label: Option<u32>,
    max: f64,
    sum: f64,
    label_logit: f64,
}

impl Softmax {
    fn new(label: Option<u32>) -> Self {
        Self { label, max: f64::NEG_INFINITY, sum: 0.0, label_logit: f64::NAN }
    }

    /// Where the label is in a tile.
    fn place(&self, start: usize, len: usize) -> Option<usize> {
        let at = (self.label? as usize).checked_sub(start)?;
        (at < len).then_some(at)
    }

    fn add(&mut self, logits: &[f64], start: usize) {
        let max = logits.iter().copied().fold(self.max, f64::max);
        self.sum *= if max == self.max { 1.0 } else { exp(self.max - max) };
        self.max = max;
        let mut sums = [0.0; 8];
        vectorized(
            #[inline(always)]
            || {
                let (whole, rest) = logits.as_chunks::<8>();
                for z in whole {
                    for i in 0..8 {
                        sums[i] += exp(z[i] - max);
                    }
                }
                for z in rest {
                    sums[0] += exp(z - max);
                }
            },
        );
        self.sum += sums.iter().sum::<f64>();
        if let Some(at) = self.place(start, logits.len()) {
            self.label_logit = logits[at];
        }
    }

    fn nll(&self) -> f64 {
        self.max - self.label_logit + self.sum.ln()
    }

    /// The mean loss's gradient for the logits before the soft-cap.
    fn pull(&self, logits: &[f64], start: usize, count: f64, cap: Option<f64>, pull: &mut [f64]) {
        if self.label.is_none() {
            return;
        }
        let scale = 1.0 / (self.sum * count);
        vectorized(
            #[inline(always)]
            || {
                for (p, z) in pull.iter_mut().zip(logits) {
                    *p = exp(z - self.max) * scale;
                }
            },
        );
        if let Some(at) = self.place(start, logits.len()) {
            pull[at] -= 1.0 / count;
        }
        if let Some(cap) = cap {
            let slope = |z: f64| 1.0 - (z / cap).powi(2);
            pull.iter_mut().zip(logits).for_each(|(p, &z)| *p *= slope(z));
        }
    }
}
