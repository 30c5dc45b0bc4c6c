//! The causal convolution in front of the recurrence.

use super::one_pass::takes;
use crate::kernels::number::Float;
use crate::kernels::number::wide_dtype;
use crate::kernels::operands::with_slice;
use crate::kernels::threads;
use candle_core::{DType, Device, Error, Result, Tensor};
use candle_nn::VarBuilder;
use half::{bf16, f16};
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
            && takes(x)
        {
            return convolve(x, taps);
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

/// `[batch, width - 1 + seq, channels]` of any type to `[batch, seq, channels]` in f32.
fn convolve(x: &Tensor, taps: &Taps) -> Result<Tensor> {
    let x = x.contiguous()?;
    match x.dtype() {
        DType::F32 => convolve_in::<f32>(&x, taps),
        DType::BF16 => convolve_in::<bf16>(&x, taps),
        DType::F16 => convolve_in::<f16>(&x, taps),
        dtype => Err(Error::UnsupportedDTypeForOp(dtype, "convolution")),
    }
}

fn convolve_in<T: Float>(x: &Tensor, taps: &Taps) -> Result<Tensor> {
    let (batch, seen, channels) = x.dims3()?;
    let width = taps.weight.len() / channels.max(1);
    let seq = (seen + 1).saturating_sub(width);
    let mut out = vec![0f32; batch * seq * channels];
    with_slice(x, |x: &[T]| {
        let rows = out.chunks_mut(channels.max(1)).enumerate();
        threads::for_each(batch * seq * channels * width / 2, rows, |(row, out)| {
            let (text, at) = (row / seq, row % seq);
            let (mut inputs, mut sums) = (vec![0f32; channels], vec![0f64; channels]);
            sums.iter_mut().zip(&taps.bias).for_each(|(sum, &bias)| *sum = f64::from(bias));
            for (tap, weights) in taps.weight.chunks(channels.max(1)).enumerate() {
                let first = (text * seen + at + tap) * channels;
                T::to_f32s(&x[first..][..channels], &mut inputs);
                for ((sum, &weight), &input) in sums.iter_mut().zip(weights).zip(&inputs) {
                    *sum += f64::from(weight) * f64::from(input);
                }
            }
            out.iter_mut().zip(&sums).for_each(|(out, &sum)| *out = sum as f32);
        });
    })?;
    Tensor::from_vec(out, (batch, seq, channels), &Device::Cpu)
}
