//! Drift of the loss's gradients.

use super::backward::{Backward, MatrixGradients};
use super::lockstep::Lockstep;
use super::metrics::{Metrics, nan_from_null};
use super::options::DriftOptions;
use super::side::distinct;
use crate::error::{Error, Result};
use crate::input::{Texts, TokenIds};
use candle_core::{Device, Tensor};
use gemma_mlp::Checkpoint;
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

/// The gradients of a layer's matrices, and what rounding alone does to them.
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

/// The gradients of a layer's matrices: the block's three, and those around its other GELUs, where it has them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct BlockGradients {
    /// The gradient of `gate_proj.weight`.
    pub gate_proj: GradientMetrics,
    /// The gradient of `up_proj.weight`.
    pub up_proj: GradientMetrics,
    /// The gradient of `down_proj.weight`.
    pub down_proj: GradientMetrics,
    /// The gradient of `per_layer_input_gate.weight` (Gemma 3n, Gemma 4's E2B and E4B).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_layer_input_gate: Option<GradientMetrics>,
    /// The gradient of `per_layer_projection.weight`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_layer_projection: Option<GradientMetrics>,
    /// The gradient of `experts.gate_up_proj`, of all experts (Gemma 4's 26B-A4B).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts_gate_up_proj: Option<GradientMetrics>,
    /// The gradient of `experts.down_proj`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts_down_proj: Option<GradientMetrics>,
}

impl BlockGradients {
    /// All that there are, by their fields' names.
    pub fn matrices(&self) -> impl Iterator<Item = (&'static str, GradientMetrics)> {
        let all = [
            ("gate_proj", Some(self.gate_proj)),
            ("up_proj", Some(self.up_proj)),
            ("down_proj", Some(self.down_proj)),
            ("per_layer_input_gate", self.per_layer_input_gate),
            ("per_layer_projection", self.per_layer_projection),
            ("experts_gate_up_proj", self.experts_gate_up_proj),
            ("experts_down_proj", self.experts_down_proj),
        ];
        all.into_iter().filter_map(|(name, metrics)| Some((name, metrics?)))
    }

    fn new(a: &MatrixGradients, b: &MatrixGradients) -> Result<Self> {
        let of = |i: usize| metrics(&a.mlp[i], &b.mlp[i]);
        let pair = |a: &Option<[Tensor; 2]>, b: &Option<[Tensor; 2]>, i: usize| {
            a.as_ref().zip(b.as_ref()).map(|(a, b)| metrics(&a[i], &b[i])).transpose()
        };
        Ok(Self {
            gate_proj: of(0)?,
            up_proj: of(1)?,
            down_proj: of(2)?,
            per_layer_input_gate: pair(&a.per_layer, &b.per_layer, 0)?,
            per_layer_projection: pair(&a.per_layer, &b.per_layer, 1)?,
            experts_gate_up_proj: pair(&a.experts, &b.experts, 0)?,
            experts_down_proj: pair(&a.experts, &b.experts, 1)?,
        })
    }
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
    let labels: Vec<_> = window.ids[1..].iter().copied().map(Some).chain([None]).collect();
    let ids = ids.tensor(device)?;
    let mut passes = (0..sides.len())
        .map(|side| Backward::new(&lockstep.model(side), &ids, &labels))
        .collect::<Result<Vec<_>>>()?;
    let mut gradients = vec![];
    for index in (0..lockstep.layers()).rev() {
        let layer = passes.iter_mut().map(|pass| pass.layer(index)).collect::<Result<Vec<_>>>()?;
        let drift = BlockGradients::new(&layer[a], &layer[b])?;
        let floor = BlockGradients::new(&layer[floor_a], &layer[floor_b])?;
        gradients.push(LayerGradients { index, drift, floor });
        progress(gradients.len());
    }
    gradients.reverse();
    Ok(GradientDrift {
        gradient_tokens: window.ids.len(),
        loss: [passes[a].loss, passes[b].loss],
        input_gradient: metrics(&passes[a].input()?, &passes[b].input()?)?,
        gradients,
    })
}

fn metrics(a: &Tensor, b: &Tensor) -> Result<GradientMetrics> {
    let Metrics { rel_l2, cosine, .. } = Metrics::of(a, b)?;
    Ok(GradientMetrics { rel_l2, cosine })
}
