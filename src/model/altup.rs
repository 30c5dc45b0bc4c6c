//! Several residual streams, of which a layer computes one: Gemma 3n's AltUp, and the low-rank path beside attention.
//!
//! Streams lie side by side in the last dimension, `[batch, seq, streams · hidden]`. Source: transformers
//! `Gemma3nTextAltUp`, `Gemma3nTextLaurelBlock` and `Gemma3nTextModel`.

use super::norm::RmsNorm;
use crate::checkpoint::{AltUpConfig, Stack};
use crate::kernels::linear::Linear;
use crate::kernels::number::wide_dtype;
use candle_core::{D, DType, Module, Result, Tensor};
use candle_nn::{VarBuilder, linear_no_bias};

/// What predicts all streams of a layer from those before it, and corrects them by the one that was computed.
#[derive(Debug, Clone)]
pub(super) struct AltUp {
    pub(super) router_norm: RmsNorm,
    modality_router: Linear,
    prediction_coefs: Linear,
    correction_coefs: Linear,
    /// `[hidden]`, where the config has it.
    correct_scale: Option<Tensor>,
    streams: usize,
    active: usize,
    hidden: usize,
    clip: f64,
    pub(super) rule: AltUpRule,
}

/// What can be otherwise about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct AltUpRule {
    /// Coefficients are bounded, which they are in training alone.
    pub(super) clips: bool,
    /// Coefficients are taken for their transpose.
    pub(super) transposes: bool,
    /// All of it in f32.
    pub(super) wide: bool,
    /// The per-layer input joins the first stream as well.
    pub(super) adds_to_all: bool,
}

/// The stream with an index.
fn stream(all: &Tensor, index: usize, hidden: usize) -> Result<Tensor> {
    all.narrow(D::Minus1, index * hidden, hidden)?.contiguous()
}

fn linear(rows: usize, columns: usize, vb: VarBuilder) -> Result<Linear> {
    Ok(Linear::try_from(linear_no_bias(columns, rows, vb)?)?)
}

impl AltUp {
    pub(super) fn new(config: &AltUpConfig, stack: &Stack, vb: VarBuilder) -> Result<Self> {
        let (streams, hidden) = (config.inputs, stack.hidden_size);
        let norm = vb.pp("router_norm").get(hidden, "weight")?;
        Ok(Self {
            router_norm: RmsNorm::of(norm, stack.norm_weight, stack.rms_norm_eps),
            modality_router: linear(streams, hidden, vb.pp("modality_router"))?,
            prediction_coefs: linear(streams * streams, streams, vb.pp("prediction_coefs"))?,
            correction_coefs: linear(streams, streams, vb.pp("correction_coefs"))?,
            correct_scale: match config.correct_scale {
                true => Some(vb.get(hidden, "correct_output_scale")?),
                false => None,
            },
            streams,
            active: config.active,
            hidden,
            clip: config.coef_clip,
            rule: AltUpRule::default(),
        })
    }

    pub(super) fn packed(self) -> Result<Self> {
        Ok(Self {
            modality_router: self.modality_router.packed()?,
            prediction_coefs: self.prediction_coefs.packed()?,
            correction_coefs: self.correction_coefs.packed()?,
            ..self
        })
    }

    pub(super) fn frozen(&self) -> Self {
        Self {
            modality_router: self.modality_router.frozen(),
            prediction_coefs: self.prediction_coefs.frozen(),
            correction_coefs: self.correction_coefs.frozen(),
            ..self.clone()
        }
    }

    /// Whether a coefficient is beyond the bound.
    pub(super) fn is_beyond_clip(&self) -> Result<bool> {
        let largest = |layer: &Linear| {
            let weight = layer.weight().to_tensor(DType::F32)?;
            weight.abs()?.max_all()?.to_scalar::<f32>()
        };
        let largest = largest(&self.prediction_coefs)?.max(largest(&self.correction_coefs)?);
        Ok(f64::from(largest) > self.clip)
    }

    /// The stream that a layer computes.
    pub(super) fn active(&self, all: &Tensor) -> Result<Tensor> {
        stream(all, self.active, self.hidden)
    }

    /// What mixes the streams of a position: `[batch, seq, streams]`.
    fn modalities(&self, x: &Tensor) -> Result<Tensor> {
        // The scale comes behind the norm.
        let normed = (self.router_norm.forward(x)? * (self.hidden as f64).recip())?;
        let routed = self.modality_router.forward(&normed)?;
        routed.to_dtype(wide_dtype(x.dtype()))?.tanh()?.to_dtype(x.dtype())
    }

    /// A product by coefficients `[.., 1]` in the dtype that all of it has.
    fn coefficients(&self, layer: &Linear, modalities: &Tensor) -> Result<Tensor> {
        if !self.rule.clips {
            return layer.forward(modalities);
        }
        let weight = layer.weight().to_tensor(modalities.dtype())?.clamp(-self.clip, self.clip)?;
        modalities.broadcast_matmul(&weight.t()?)
    }

    /// What all streams would be behind the layer: `h_j + Σ_i C[j, i] · h_i`, with `C` from the active stream.
    pub(super) fn predict(&self, all: &Tensor) -> Result<Tensor> {
        let dtype = all.dtype();
        let all = &if self.rule.wide { all.to_dtype(wide_dtype(dtype))? } else { all.clone() };
        let modalities = self.modalities(&self.active(all)?)?;
        let coefs = self.coefficients(&self.prediction_coefs, &modalities)?; // [batch, seq, streams²]
        let streams = (0..self.streams).map(|i| stream(all, i, self.hidden));
        let streams = streams.collect::<Result<Vec<_>>>()?;
        let mut predicted = vec![];
        for (j, own) in streams.iter().enumerate() {
            let mut sum = None;
            for (i, other) in streams.iter().enumerate() {
                let (row, column) = if self.rule.transposes { (i, j) } else { (j, i) };
                let term = other.broadcast_mul(&coefs.narrow(
                    D::Minus1,
                    row * self.streams + column,
                    1,
                )?)?;
                sum = Some(match sum {
                    Some(sum) => (sum + term)?,
                    None => term,
                });
            }
            predicted.push(match sum {
                Some(sum) => (own + sum)?,
                None => own.clone(),
            });
        }
        Tensor::cat(&predicted, D::Minus1)?.to_dtype(dtype)
    }

    /// The streams behind a layer: each prediction, and its share in what the computed stream `x` has beyond its own.
    pub(super) fn correct(&self, predicted: &Tensor, x: &Tensor) -> Result<Vec<Tensor>> {
        let dtype = x.dtype();
        let wide = |t: &Tensor| match self.rule.wide {
            true => t.to_dtype(wide_dtype(dtype)),
            false => Ok(t.clone()),
        };
        let (predicted, x) = (&wide(predicted)?, &wide(x)?);
        let innovation = (x - self.active(predicted)?)?;
        let coefs = self.coefficients(&self.correction_coefs, &self.modalities(x)?)?;
        let coefs = (coefs + 1.0)?; // [batch, seq, streams]
        let corrected = |i: usize| {
            let share = innovation.broadcast_mul(&coefs.narrow(D::Minus1, i, 1)?)?;
            (stream(predicted, i, self.hidden)? + share)?.to_dtype(dtype)
        };
        (0..self.streams).map(corrected).collect()
    }

    /// What the per-layer gate gets: the active stream, scaled.
    pub(super) fn gated(&self, corrected: &[Tensor]) -> Result<Tensor> {
        let active = &corrected[self.active];
        match &self.correct_scale {
            Some(scale) => active.broadcast_mul(&scale.to_dtype(active.dtype())?),
            None => Ok(active.clone()),
        }
    }

    /// All streams, after the per-layer input has joined all but the first.
    pub(super) fn joined(&self, mut corrected: Vec<Tensor>, addition: &Tensor) -> Result<Tensor> {
        let first = if self.rule.adds_to_all { 0 } else { 1 };
        for stream in corrected.iter_mut().skip(first) {
            *stream = (&*stream + addition)?;
        }
        Tensor::cat(&corrected, D::Minus1)
    }
}

/// The low-rank path beside attention: `n + norm(right(left(n)))`.
#[derive(Debug, Clone)]
pub(super) struct Laurel {
    left: Linear,
    right: Linear,
    pub(super) norm: RmsNorm,
    /// Whether it begins at the residual stream and not at what is normed, which is wrong.
    pub(super) from_stream: bool,
}

impl Laurel {
    pub(super) fn new(config: &AltUpConfig, stack: &Stack, vb: VarBuilder) -> Result<Self> {
        let (rank, hidden) = (config.laurel_rank, stack.hidden_size);
        let norm = vb.pp("post_laurel_norm").get(hidden, "weight")?;
        Ok(Self {
            left: linear(rank, hidden, vb.pp("linear_left"))?,
            right: linear(hidden, rank, vb.pp("linear_right"))?,
            norm: RmsNorm::of(norm, stack.norm_weight, stack.rms_norm_eps),
            from_stream: false,
        })
    }

    pub(super) fn packed(self) -> Result<Self> {
        Ok(Self { left: self.left.packed()?, right: self.right.packed()?, ..self })
    }

    pub(super) fn frozen(&self) -> Self {
        Self { left: self.left.frozen(), right: self.right.frozen(), ..self.clone() }
    }

    /// Of the residual stream and the same normed.
    pub(super) fn forward(&self, stream: &Tensor, normed: &Tensor) -> Result<Tensor> {
        let input = if self.from_stream { stream } else { normed };
        input + self.norm.forward(&self.right.forward(&self.left.forward(input)?)?)?
    }
}

/// What makes all streams of the embeddings, and one of all streams behind the last layer.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    into: Vec<Linear>,
    back: Vec<Linear>,
    hidden: usize,
}

impl Streams {
    pub(super) fn new(config: &AltUpConfig, stack: &Stack, vb: VarBuilder) -> Result<Self> {
        let hidden = stack.hidden_size;
        let all = |name: &str| {
            let one = |i: usize| linear(hidden, hidden, vb.pp(name).pp(i));
            (0..config.inputs - 1).map(one).collect::<Result<_>>()
        };
        Ok(Self {
            into: all("altup_projections")?,
            back: all("altup_unembed_projections")?,
            hidden,
        })
    }

    pub(super) fn packed(self) -> Result<Self> {
        let packed = |all: Vec<Linear>| all.iter().map(Linear::packed).collect::<Result<_>>();
        Ok(Self { into: packed(self.into)?, back: packed(self.back)?, ..self })
    }

    pub(super) fn frozen(&self) -> Self {
        let frozen = |all: &[Linear]| all.iter().map(Linear::frozen).collect();
        Self { into: frozen(&self.into), back: frozen(&self.back), ..self.clone() }
    }

    /// `[batch, seq, hidden]` to `[batch, seq, streams · hidden]`.
    pub(super) fn begin(&self, embedded: &Tensor) -> Result<Tensor> {
        let size = magnitude(embedded)?;
        let mut all = vec![embedded.clone()];
        for projection in &self.into {
            all.push(of_magnitude(&projection.forward(embedded)?, &size)?);
        }
        Tensor::cat(&all, D::Minus1)
    }

    /// `[batch, seq, streams · hidden]` to `[batch, seq, hidden]`.
    pub(super) fn end(&self, all: &Tensor) -> Result<Tensor> {
        let first = stream(all, 0, self.hidden)?;
        let size = magnitude(&first)?;
        let mut sum = first;
        for (i, projection) in self.back.iter().enumerate() {
            let back = projection.forward(&stream(all, i + 1, self.hidden)?)?;
            sum = (sum + of_magnitude(&back, &size)?)?;
        }
        sum / (self.back.len() + 1) as f64
    }
}

/// The mean of squares, summed in f32 (f64), `[..., 1]`.
fn mean_square(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(wide_dtype(x.dtype()))?.sqr()?.mean_keepdim(D::Minus1)?.to_dtype(x.dtype())
}

/// Its root.
fn magnitude(x: &Tensor) -> Result<Tensor> {
    mean_square(x)?.sqrt()
}

/// A stream as large as another.
fn of_magnitude(x: &Tensor, size: &Tensor) -> Result<Tensor> {
    /// The least mean of squares, so that nothing is divided by 0.
    const FLOOR: f64 = 1e-5;
    let own = mean_square(x)?.maximum(FLOOR)?.sqrt()?;
    x.broadcast_mul(size)?.broadcast_div(&own)
}
