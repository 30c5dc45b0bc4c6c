//! Drift of the loss's gradients.

use super::head::loss;
use super::lockstep::Lockstep;
use super::metrics::{Metrics, nan_from_null};
use super::options::DriftOptions;
use super::side::distinct;
use super::window::Window;
use crate::error::{Error, Result};
use crate::input::{Texts, TokenIds};
use candle_core::{Device, Tensor, Var};
use gemma_mlp::Checkpoint;
use gemma_mlp::{Gemma, model};
use serde::{Deserialize, Serialize};

/// The gradients of two sides' losses: the mean negative log-likelihood of the next token over the
/// first window.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct GradientDrift {
    /// Tokens of the window.
    pub gradient_tokens: usize,
    /// The loss of a and of b, in nats.
    pub loss: [f64; 2],
    /// The gradient for the scaled input embeddings.
    pub input_gradient: GradientMetrics,
    /// The gradients of every layer's weights, from the first layer on.
    pub gradients: Vec<LayerGradients>,
}

/// How far two gradients are apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct LayerGradients {
    /// Which layer.
    pub index: usize,
    /// Figures of the pair of sides.
    #[serde(flatten)]
    pub drift: BlockGradients,
    /// Figures of the pair that differs by rounding alone.
    pub floor: BlockGradients,
}

/// The gradients of a block's three matrices.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct BlockGradients {
    /// The gradient of `gate_proj.weight`.
    pub gate_proj: GradientMetrics,
    /// The gradient of `up_proj.weight`.
    pub up_proj: GradientMetrics,
    /// The gradient of `down_proj.weight`.
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
    texts: &Texts,
    options: &DriftOptions,
    device: &Device,
    mut progress: impl FnMut(usize),
) -> Result<GradientDrift> {
    let windows = options.windows(checkpoint, texts)?;
    let window = windows.iter().next().filter(|window| window.ids.len() > 1);
    let window = window.ok_or(Error::NoLoss)?;
    let ids = TokenIds::single(window.ids.clone())?;
    let (pair, floor) = (options.sides, options.floor_sides);
    let (sides, [a, b, floor_a, floor_b]) = distinct([pair.a, pair.b, floor.a, floor.b]);
    let lockstep = Lockstep::load(checkpoint, &sides, device)?;
    let mut passes = (0..sides.len())
        .map(|side| Pass::forward(lockstep.model(side), &ids.tensor(device)?, &window))
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
            return Err(Error::NoHead { lacks: "has no loss" });
        };
        let (mut x, mut pass) = gemma.begin(ids, model::Pass::new())?;
        let mut streams = vec![x.clone()];
        for layer in gemma.layers() {
            x = layer.forward(&x, &mut pass)?;
            streams.push(x.clone());
        }
        streams.pop();
        let last = Var::from_tensor(&x)?;
        let hidden = gemma.final_norm(&last)?;
        let labels: Vec<_> =
            (1..window.ids.len()).map(|i| Some(window.ids[i])).chain([None]).collect();
        let (loss, gradient) = loss(head, &hidden.detach().get(0)?, &labels)?;
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
        let y = layer.forward(&x, &mut model::Pass::new())?;
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
    let Metrics { rel_l2, cosine, .. } = Metrics::of(a, b)?;
    Ok(GradientMetrics { rel_l2, cosine })
}

fn block_gradients(a: &[Tensor], b: &[Tensor]) -> Result<BlockGradients> {
    let of = |i: usize| metrics(&a[i], &b[i]);
    Ok(BlockGradients { gate_proj: of(0)?, up_proj: of(1)?, down_proj: of(2)? })
}
