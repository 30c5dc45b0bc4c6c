//! Gemma's RMSNorm.

use crate::operands::slice;
use candle_core::{
    CpuStorage, CustomOp2, D, DType, Device, Layout, Module, Result, Shape, Tensor, WithDType,
};
use half::{bf16, f16};
use rayon::prelude::*;

/// `x / sqrt(mean(x²) + eps) · (1 + w)`, over the last dimension.
///
/// Computed in f32 (f64 for f64) up to and with the product by `1 + w`, and rounded once: Llama
/// rounds before that product (transformers `Gemma3RMSNorm`, pull request 29402). The weight is
/// stored as its distance from 1.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
    rounding: NormRounding,
}

/// Where a norm rounds, beyond the dtype of its input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NormRounding {
    /// Nowhere, which is right.
    #[default]
    Once,
    /// The result, to a dtype.
    Output(DType),
    /// What is normed, before the product by the weight, and the result: Llama's order.
    BeforeWeight(DType),
}

impl RmsNorm {
    /// A norm with weight `[hidden]`, of any floating-point dtype.
    pub fn new(weight: Tensor, eps: f64) -> Self {
        Self { weight, eps, rounding: NormRounding::Once }
    }

    /// The same norm with a weight that `change` makes of its own, which it gets in f32 (f64 stays).
    ///
    /// # Errors
    /// Those of `change`.
    pub fn map_weight(&self, change: impl FnOnce(Tensor) -> Result<Tensor>) -> Result<Self> {
        let wide = self.weight.to_dtype(wide_dtype(self.weight.dtype()))?;
        Ok(Self { weight: change(wide)?, ..self.clone() })
    }

    /// Whether it rounds at the end only.
    pub(super) fn rounds_once(&self) -> bool {
        self.rounding == NormRounding::Once
    }

    /// What it does to a row in f32, before it rounds.
    pub(super) fn scale(&self) -> Result<Scale> {
        Ok(Scale { weight: self.weight.to_dtype(DType::F32)?.to_vec1()?, eps: self.eps })
    }

    /// The same norm, rounding elsewhere.
    pub fn with_rounding(&self, rounding: NormRounding) -> Self {
        Self { rounding, ..self.clone() }
    }

    /// Out of candle's operations, which it differentiates.
    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let round = |t: Tensor, to: DType| t.to_dtype(to)?.to_dtype(t.dtype());
        let wide = wide_dtype(x.dtype());
        let x_wide = x.to_dtype(wide)?;
        let mean_square = x_wide.sqr()?.mean_keepdim(D::Minus1)?; // [..., 1]
        let mut y = x_wide.broadcast_div(&(mean_square + self.eps)?.sqrt()?)?; // [..., hidden]
        if let NormRounding::BeforeWeight(dtype) = self.rounding {
            y = round(y, dtype)?;
        }
        y = y.broadcast_mul(&(self.weight.to_dtype(wide)? + 1.0)?)?;
        if let NormRounding::Output(dtype) | NormRounding::BeforeWeight(dtype) = self.rounding {
            y = round(y, dtype)?;
        }
        y.to_dtype(x.dtype())
    }
}

impl Module for RmsNorm {
    /// `[..., hidden]` to the same shape and dtype.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let tracked = x.track_op() || self.weight.track_op();
        let plain = self.rounding == NormRounding::Once && matches!(x.device(), Device::Cpu);
        if tracked || !plain || x.elem_count() == 0 {
            return self.composed(x);
        }
        let weight = self.weight.to_dtype(wide_dtype(x.dtype()))?.contiguous()?;
        x.contiguous()?.apply_op2_no_bwd(&weight, &Fused { eps: self.eps })
    }
}

/// f64 stays, everything else is computed in f32.
pub(crate) fn wide_dtype(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// A norm as numbers.
pub(super) struct Scale {
    weight: Vec<f32>,
    eps: f64,
}

impl Scale {
    /// Norms one row.
    pub fn apply(&self, x: &mut [f32]) {
        let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let scale = (1.0 / (squares / x.len() as f64 + self.eps).sqrt()) as f32;
        for (x, w) in x.iter_mut().zip(&self.weight) {
            *x = *x * scale * (1.0 + w);
        }
    }
}

/// The same in one pass on the CPU, with the mean summed in f64.
struct Fused {
    eps: f64,
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w) = ((x, x_layout), (weight, weight_layout));
        let y = match x.0 {
            CpuStorage::F32(_) => rows(x, w, self.eps, |x: f32| x, |y: f32| y),
            CpuStorage::F64(_) => rows(x, w, self.eps, |x: f64| x, |y: f64| y),
            CpuStorage::BF16(_) => rows(x, w, self.eps, bf16::to_f32, bf16::from_f32),
            CpuStorage::F16(_) => rows(x, w, self.eps, f16::to_f32, f16::from_f32),
            _ => candle_core::bail!("a norm takes floating-point numbers"),
        };
        Ok((y?, x_layout.shape().clone()))
    }
}

/// Norms row by row: widens, computes in `W`, rounds once.
fn rows<T: WithDType, W: WithDType + num_traits::Float + Into<f64>>(
    (x, x_layout): (&CpuStorage, &Layout),
    (weight, weight_layout): (&CpuStorage, &Layout),
    eps: f64,
    widen: impl Fn(T) -> W + Sync,
    round: impl Fn(W) -> T + Sync,
) -> Result<CpuStorage> {
    let x = slice::<T>(x, x_layout)?;
    let weight = slice::<W>(weight, weight_layout)?;
    let mut y = vec![T::zero(); x.len()];
    let width = weight.len();
    y.par_chunks_mut(width).zip(x.par_chunks(width)).for_each(|(y, x)| {
        let square = |&x: &T| {
            let x: f64 = widen(x).into();
            x * x
        };
        let mean = x.iter().map(square).sum::<f64>() / width as f64;
        let scale = <W as WithDType>::from_f64(1.0 / (mean + eps).sqrt());
        let one = <W as num_traits::One>::one();
        for ((y, &x), &w) in y.iter_mut().zip(x).zip(weight) {
            *y = round(widen(x) * scale * (one + w));
        }
    });
    Ok(T::to_cpu_storage_owned(y))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_pass_agrees_with_the_composed_form() -> Result<()> {
        for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
            let x = Tensor::randn(0f32, 3., (3, 5, 70), &Device::Cpu)?.to_dtype(dtype)?;
            let norm = RmsNorm::new(Tensor::randn(0f32, 0.5, 70, &Device::Cpu)?, 1e-6);
            let (fused, composed) = (norm.forward(&x)?, norm.composed(&x)?);
            assert_eq!(fused.dtype(), dtype);
            let difference = (fused.to_dtype(DType::F64)? - composed.to_dtype(DType::F64)?)?;
            let bound = match dtype {
                DType::F64 => 1e-14,
                DType::F32 => 2e-6,
                _ => 4e-2,
            };
            assert!(difference.abs()?.max_all()?.to_scalar::<f64>()? < bound, "{dtype:?}");
        }
        Ok(())
    }
}
