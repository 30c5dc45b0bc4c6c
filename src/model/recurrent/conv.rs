//! The causal convolution in front of the recurrence.

use super::one_pass;
use crate::kernels::linear::wide_dtype;
use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use std::sync::Arc;

/// A causal convolution of every channel by itself, with a bias.
#[derive(Debug, Clone)]
pub(super) struct CausalConv {
    /// `[channels, 1, width]`, the last tap that of the current position.
    weight: Tensor,
    /// `[channels]`.
    bias: Tensor,
    width: usize,
    /// For one pass on the CPU.
    taps: Option<Arc<Taps>>,
}

/// The numbers of a convolution.
#[derive(Debug)]
pub(super) struct Taps {
    /// `[width, channels]`.
    pub weight: Vec<f32>,
    /// `[channels]`.
    pub bias: Vec<f32>,
}

impl CausalConv {
    pub fn new(channels: usize, width: usize, vb: VarBuilder) -> Result<Self> {
        let (weight, bias) = (vb.get((channels, 1, width), "weight")?, vb.get(channels, "bias")?);
        Ok(Self { weight, bias, width, taps: None })
    }

    /// How many positions it spans.
    pub fn width(&self) -> usize {
        self.width
    }

    pub fn packed(&self) -> Result<Self> {
        let numbers = |t: &Tensor| t.to_dtype(DType::F32)?.flatten_all()?.to_vec1();
        let weight = numbers(&self.weight.squeeze(1)?.t()?.contiguous()?)?;
        let taps = Taps { weight, bias: numbers(&self.bias)? };
        Ok(Self { taps: Some(Arc::new(taps)), ..self.clone() })
    }

    /// Inputs `[batch, seq, channels]` behind those before them, `[batch, width - 1, channels]`; zeros at a text's
    /// start.
    pub fn with_past(&self, x: &Tensor, past: Option<&Tensor>) -> Result<Tensor> {
        let (batch, _, channels) = x.dims3()?;
        if self.width == 1 {
            return Ok(x.clone());
        }
        match past {
            Some(past) => Tensor::cat(&[&past.to_dtype(x.dtype())?, x], 1),
            None => {
                let zeros =
                    Tensor::zeros((batch, self.width - 1, channels), x.dtype(), x.device())?;
                Tensor::cat(&[&zeros, x], 1)
            }
        }
    }

    /// Inputs with those before them, `[batch, width - 1 + seq, channels]`, to `[batch, seq, channels]` in f32 (f64 of
    /// f64).
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if let Some(taps) = &self.taps
            && one_pass::takes(x)
        {
            return one_pass::convolve(x, taps);
        }
        let wide = wide_dtype(x.dtype());
        let seq = x.dim(1)? + 1 - self.width;
        let taps = self.weight.to_dtype(wide)?.squeeze(1)?.t()?; // [width, channels]
        let mut sum = self.bias.to_dtype(wide)?.broadcast_as((x.dim(0)?, seq, x.dim(2)?))?;
        for tap in 0..self.width {
            let seen = x.narrow(1, tap, seq)?.to_dtype(wide)?;
            sum = (sum + seen.broadcast_mul(&taps.get(tap)?)?)?;
        }
        Ok(sum)
    }
}
