//! Gemma's RMSNorm.

use crate::checkpoint::NormWeight;
use crate::kernels::exp::vectorized;
use crate::kernels::number::Float;
use crate::kernels::number::wide_dtype;
use crate::kernels::operands::{check_pair, slice};
use crate::kernels::threads;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, D, DType, Layout, Module, Result, Shape, Tensor,
};
use half::{bf16, f16};

/// `x / sqrt(mean(x²) + eps) · (1 + w)`, over the last dimension; or `· w`, or neither, as [`NormWeight`] says.
///
/// Computed in f32 (f64 for f64) up to and with the product by `1 + w`, and rounded once: Llama
/// rounds before that product (transformers `Gemma3RMSNorm`, pull request 29402). Up to Gemma 3 the weight is
/// stored as its distance from 1; since Gemma 3n as it is (`Gemma3nRMSNorm`, `Gemma4RMSNorm`), and values and what
/// routers see are normed without one.
#[derive(Debug, Clone)]
pub struct RmsNorm {
    weight: Option<Tensor>,
    kind: NormWeight,
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
    /// The input and the result of every operation, `1 + w` among them; the mean of squares is summed in f32. A norm out
    /// of a framework's own operations on numbers of a dtype. (XLA, which fuses squares and sum, keeps squares in f32:
    /// that changes the last bit of one mean in fifty, over 640 numbers in bf16.)
    EveryOp(DType),
    /// Every square, and their mean, which is summed in f32.
    Squares(DType),
}

impl RmsNorm {
    /// A norm that multiplies by `1 + w`, with weight `[hidden]`, of any floating-point dtype.
    pub fn new(weight: Tensor, eps: f64) -> Self {
        Self::of(weight, NormWeight::OnePlus, eps)
    }

    /// A norm with weight `[hidden]`, of any floating-point dtype, and what it multiplies by.
    pub fn of(weight: Tensor, kind: NormWeight, eps: f64) -> Self {
        Self { weight: Some(weight), kind, eps, rounding: NormRounding::Once }
    }

    /// A norm that multiplies by nothing.
    pub fn weightless(eps: f64) -> Self {
        Self { weight: None, kind: NormWeight::Plain, eps, rounding: NormRounding::Once }
    }

    /// A norm with a weight that `change` makes of its own, which it gets in f32 (f64 stays). One without a weight stays
    /// as it is.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn map_weight(&self, change: impl FnOnce(Tensor) -> Result<Tensor>) -> Result<Self> {
        let Some(weight) = &self.weight else { return Ok(self.clone()) };
        let wide = weight.to_dtype(wide_dtype(weight.dtype()))?;
        Ok(Self { weight: Some(change(wide)?), ..self.clone() })
    }

    /// What it multiplies by; `None` if by nothing.
    pub fn kind(&self) -> Option<NormWeight> {
        self.weight.as_ref().map(|_| self.kind)
    }

    /// A norm of this weight that multiplies by something else.
    pub(super) fn with_kind(&self, kind: NormWeight) -> Self {
        Self { kind, ..self.clone() }
    }

    /// Whether it rounds at the end only.
    pub(super) fn rounds_once(&self) -> bool {
        self.rounding == NormRounding::Once
    }

    /// What it does to a row in f32, before it rounds.
    pub(super) fn scale(&self) -> Result<Scale> {
        let Some(weight) = &self.weight else {
            return Ok(Scale { factors: None, eps: self.eps });
        };
        let weight = weight.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        let factors = match self.kind {
            NormWeight::OnePlus => weight.into_iter().map(|w| 1.0 + w).collect(),
            NormWeight::Plain => weight,
        };
        Ok(Scale { factors: Some(factors), eps: self.eps })
    }

    /// A norm of this weight that rounds elsewhere.
    pub fn with_rounding(&self, rounding: NormRounding) -> Self {
        Self { rounding, ..self.clone() }
    }

    /// Out of candle's operations, which it differentiates.
    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let wide = wide_dtype(x.dtype());
        let rounded = |t: Tensor, to: Option<DType>| match to {
            Some(to) => rounded_to(&t, to),
            None => Ok(t),
        };
        let (squares, every, before, output) = match self.rounding {
            NormRounding::Once => (None, None, None, None),
            NormRounding::Output(dtype) => (None, None, None, Some(dtype)),
            NormRounding::BeforeWeight(dtype) => (None, None, Some(dtype), Some(dtype)),
            NormRounding::EveryOp(dtype) => (Some(dtype), Some(dtype), Some(dtype), Some(dtype)),
            NormRounding::Squares(dtype) => (Some(dtype), None, None, None),
        };
        let x_wide = rounded(x.to_dtype(wide)?, every)?;
        let mean_square = rounded(x_wide.sqr()?, squares)?.mean_keepdim(D::Minus1)?;
        let mean_square = rounded(mean_square, squares)?; // [..., 1]
        let mut y = match every {
            None => x_wide.broadcast_div(&(mean_square + self.eps)?.sqrt()?)?, // [..., hidden]
            Some(_) => {
                let mean_square = rounded((mean_square + self.eps)?, every)?;
                x_wide.broadcast_mul(&rounded(mean_square.sqrt()?.recip()?, every)?)?
            }
        };
        y = rounded(y, before)?;
        if let Some(weight) = &self.weight {
            let weight = weight.to_dtype(wide)?;
            let factor = match self.kind {
                NormWeight::OnePlus => rounded((weight + 1.0)?, every)?,
                NormWeight::Plain => weight,
            };
            y = y.broadcast_mul(&factor)?;
        }
        rounded(y, output)?.to_dtype(x.dtype())
    }
}

impl Module for RmsNorm {
    /// `[..., hidden]` to the same shape and dtype.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self.is_one_pass(x) {
            true => x.contiguous()?.apply_op1_no_bwd(&OnePass(self.scale()?)),
            false => self.composed(x),
        }
    }
}

impl RmsNorm {
    /// `residual + forward(x)`, all `[..., hidden]` and of one dtype.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        match self.is_one_pass(x) && !residual.track_op() {
            true => {
                check_pair(x, residual, "rms-norm-add")?;
                let residual = residual.contiguous()?;
                x.contiguous()?.apply_op2_no_bwd(&residual, &OnePass(self.scale()?))
            }
            false => residual + self.forward(x)?,
        }
    }

    /// Whether it is computed in one pass, which has no gradient.
    fn is_one_pass(&self, x: &Tensor) -> bool {
        let tracked = x.track_op() || self.weight.as_ref().is_some_and(Tensor::track_op);
        let wide = x.dtype() == DType::F64;
        !tracked && !wide && x.device().is_cpu() && self.rounds_once() && x.elem_count() > 0
    }
}

/// Numbers rounded to a dtype of 16 bits, in the dtype that they have.
///
/// f64 goes through f32: the half crate, with which candle converts, drops the lower half of an f64, and so takes what
/// lies just above the middle between two bf16 for the middle.
pub(super) fn rounded_to(x: &Tensor, dtype: DType) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.to_dtype(dtype)?.to_dtype(x.dtype())
}

/// A norm as numbers.
pub(super) struct Scale {
    /// `1 + w` or `w`; `None` for neither.
    factors: Option<Vec<f32>>,
    eps: f64,
}

impl Scale {
    /// Norms one row, with the mean summed in f64.
    pub fn apply(&self, x: &mut [f32]) {
        /// Numbers that are summed side by side.
        const LANES: usize = 16;
        vectorized(
            #[inline(always)]
            || {
                let mut squares = [0f64; LANES];
                let (chunks, rest) = x.as_chunks::<LANES>();
                for chunk in chunks {
                    for (sum, &x) in squares.iter_mut().zip(chunk) {
                        *sum = f64::from(x).mul_add(f64::from(x), *sum);
                    }
                }
                for (sum, &x) in squares.iter_mut().zip(rest) {
                    *sum = f64::from(x).mul_add(f64::from(x), *sum);
                }
                let mean = squares.iter().sum::<f64>() / x.len() as f64;
                let scale = (1.0 / (mean + self.eps).sqrt()) as f32;
                match &self.factors {
                    Some(factors) => {
                        for (x, factor) in x.iter_mut().zip(factors) {
                            *x = *x * scale * factor;
                        }
                    }
                    None => x.iter_mut().for_each(|x| *x *= scale),
                }
            },
        );
    }
}

/// The norm in one pass on the CPU, and perhaps a sum with what it is added to.
struct OnePass(Scale);

impl CustomOp1 for OnePass {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let y = match x {
            CpuStorage::F32(_) => self.rows::<f32>(layout, slice(x, layout)?, None),
            CpuStorage::BF16(_) => self.rows::<bf16>(layout, slice(x, layout)?, None),
            CpuStorage::F16(_) => self.rows::<f16>(layout, slice(x, layout)?, None),
            _ => candle_core::bail!("a norm takes floating-point numbers"),
        };
        Ok((y?, layout.shape().clone()))
    }
}

impl CustomOp2 for OnePass {
    fn name(&self) -> &'static str {
        "rms-norm-add"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        to: &CpuStorage,
        to_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let y = match x {
            CpuStorage::F32(_) => {
                self.rows::<f32>(layout, slice(x, layout)?, Some(slice(to, to_layout)?))
            }
            CpuStorage::BF16(_) => {
                self.rows::<bf16>(layout, slice(x, layout)?, Some(slice(to, to_layout)?))
            }
            CpuStorage::F16(_) => {
                self.rows::<f16>(layout, slice(x, layout)?, Some(slice(to, to_layout)?))
            }
            _ => candle_core::bail!("a norm takes floating-point numbers"),
        };
        Ok((y?, layout.shape().clone()))
    }
}

impl OnePass {
    fn rows<T: Float>(&self, layout: &Layout, x: &[T], to: Option<&[T]>) -> Result<CpuStorage> {
        /// Elements that are worth another thread.
        const CHUNK: usize = 1 << 14;
        let width = layout.dims().last().copied().unwrap_or(1);
        if let Some(factors) = self.0.factors.as_ref().filter(|factors| factors.len() != width) {
            candle_core::bail!("a norm of width {} on rows of {width}", factors.len())
        }
        let mut y = vec![T::zero(); x.len()];
        let chunk = (CHUNK / width).max(1) * width;
        let chunks = y.chunks_mut(chunk).zip(x.chunks(chunk)).enumerate();
        threads::for_each(x.len(), chunks, |(i, (y, x))| {
            let to = to.map(|to| &to[i * chunk..][..x.len()]);
            let mut wide = vec![0f32; 2 * width];
            let (row, other) = wide.split_at_mut(width);
            for (at, (y, x)) in y.chunks_mut(width).zip(x.chunks(width)).enumerate() {
                T::to_f32s(x, row);
                self.0.apply(row);
                T::from_f32s(row, y);
                if let Some(to) = to {
                    T::to_f32s(y, row);
                    T::to_f32s(&to[at * width..][..width], other);
                    row.iter_mut().zip(&*other).for_each(|(a, b)| *a += b);
                    T::from_f32s(row, y);
                }
            }
        });
        Ok(T::to_cpu_storage_owned(y))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn one_pass_agrees_with_the_composed_form() -> Result<()> {
        for dtype in [DType::F32, DType::F64, DType::BF16, DType::F16] {
            let x = Tensor::randn(0f32, 3., (3, 5, 70), &Device::Cpu)?.to_dtype(dtype)?;
            let norm = RmsNorm::new(Tensor::randn(0f32, 0.5, 70, &Device::Cpu)?, 1e-6);
            let (one_pass, composed) = (norm.forward(&x)?, norm.composed(&x)?);
            assert_eq!(one_pass.dtype(), dtype);
            let difference = (one_pass.to_dtype(DType::F64)? - composed.to_dtype(DType::F64)?)?;
            let bound = match dtype {
                DType::F64 => 1e-14,
                DType::F32 => 2e-6,
                _ => 4e-2,
            };
            assert!(difference.abs()?.max_all()?.to_scalar::<f64>()? < bound, "{dtype:?}");
            let residual = Tensor::randn(0f32, 3., x.shape(), &Device::Cpu)?.to_dtype(dtype)?;
            let (added, sum) = (norm.forward_add(&x, &residual)?, (residual + one_pass)?);
            let difference = (added.to_dtype(DType::F64)? - sum.to_dtype(DType::F64)?)?;
            assert_eq!(difference.abs()?.max_all()?.to_scalar::<f64>()?, 0.0, "{dtype:?}");
        }
        Ok(())
    }
}
