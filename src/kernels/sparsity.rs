//! Rows shifted by a cutoff of their own and rectified, forward and backward: what is behind Gemma 3n's
//! activation sparsity.
//!
//! On the CPU it is one pass over each row, in f64, rounded once. Elsewhere candle's operations are
//! composed to the same end.

use crate::kernels::exp::vectorized;
use crate::kernels::number::{Float, map};
use crate::kernels::operands::{check_pair, slice};
use crate::kernels::threads;
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, D, DType, Error, Layout, Result, Shape, Tensor, WithDType,
};
use half::{bf16, f16};
use pulp::bytemuck::{cast_slice, cast_slice_mut};

/// Where a row is cut off: at `μ + multiplier·σ`, its mean and its standard deviation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cutoff {
    /// How many standard deviations above the mean.
    pub multiplier: f64,
    /// σ² is the sum of squares over the row's length less this.
    pub ddof: usize,
}

impl Cutoff {
    /// `relu(x − (μ + multiplier·σ))` over the last dimension: `[..., width]` to the same shape and
    /// dtype, f64, f32, bf16 or f16.
    ///
    /// The gradient goes through μ and σ too. Where a row is constant, σ has none, as in PyTorch.
    ///
    /// # Errors
    /// A scalar, an integer dtype.
    pub fn rectify(self, x: &Tensor) -> Result<Tensor> {
        if x.rank() == 0 {
            candle_core::bail!("a scalar has no last dimension to take a mean over")
        }
        match x.device().is_cpu() {
            _ if x.elem_count() == 0 => Ok(x.clone()),
            true => x.contiguous()?.apply_op1(Rectify(self)),
            false => self.composed(x),
        }
    }

    /// Out of candle's operations, which it differentiates.
    fn composed(self, x: &Tensor) -> Result<Tensor> {
        let wide = match x.dtype() {
            DType::F64 => x.clone(),
            _ => x.to_dtype(DType::F32)?,
        };
        let count = wide.dim(D::Minus1)? as f64;
        let centered = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
        let squares = centered.sqr()?.sum_keepdim(D::Minus1)?; // [..., 1]
        let variance = (squares / (count - self.ddof as f64))?;
        // The root's derivative at 0 is infinite: there it is taken at 1 instead, of factors that are 0.
        let is_zero = variance.eq(0f64)?.to_dtype(variance.dtype())?.detach();
        let deviation = ((variance + &is_zero)?.sqrt()? - is_zero)?;
        let above = centered.broadcast_sub(&(deviation * self.multiplier)?)?;
        // Not candle's `relu`, whose derivative at 0 is 1. NaN stays.
        let below = above.le(0f64)?;
        below.where_cond(&above.zeros_like()?, &above)?.to_dtype(x.dtype())
    }

    /// [`Self::rectify`] with mean, standard deviation, their sum and the result rounded to a dtype.
    ///
    /// # Errors
    /// A scalar, an integer dtype.
    pub fn rectify_rounded(self, x: &Tensor, dtype: DType) -> Result<Tensor> {
        let wide = if x.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
        let rounded = |x: Tensor| x.to_dtype(dtype)?.to_dtype(wide);
        let x_wide = x.to_dtype(wide)?;
        let count = x_wide.dim(D::Minus1)? as f64;
        let mean = x_wide.mean_keepdim(D::Minus1)?;
        let squares = x_wide.broadcast_sub(&mean)?.sqr()?.sum_keepdim(D::Minus1)?; // [..., 1]
        let deviation = rounded((squares / (count - self.ddof as f64))?.sqrt()?)?;
        let above_mean = rounded((deviation * self.multiplier)?)?;
        let cutoff = rounded((rounded(mean)? + above_mean)?)?;
        rounded(x_wide.broadcast_sub(&cutoff)?)?.relu()?.to_dtype(x.dtype())
    }

    /// Mean and standard deviation of a row.
    fn moments(self, row: &[f64]) -> Moments {
        // Sums of distances from one of its numbers are exactly 0 where all are equal.
        let (origin, count) = (row[0], row.len() as f64);
        let mean = origin
            + sum(
                row,
                #[inline(always)]
                |x| x - origin,
            ) / count;
        let squares = sum(
            row,
            #[inline(always)]
            |x| (x - mean) * (x - mean),
        );
        Moments { mean, deviation: (squares / (count - self.ddof as f64)).sqrt() }
    }

    /// Replaces a row by what is left of it.
    fn apply(self, row: &mut [f64]) {
        let Moments { mean, deviation } = self.moments(row);
        let cutoff = mean + deviation * self.multiplier;
        vectorized(
            #[inline(always)]
            || row.iter_mut().for_each(|x| *x = rectified(*x - cutoff)),
        );
    }

    /// Replaces the gradient of the result by that of the row.
    fn apply_backward(self, row: &[f64], gradient: &mut [f64]) {
        let Moments { mean, deviation } = self.moments(row);
        let cutoff = mean + deviation * self.multiplier;
        vectorized(
            #[inline(always)]
            || {
                for (gradient, &x) in gradient.iter_mut().zip(row) {
                    *gradient = if x - cutoff <= 0.0 { 0.0 } else { *gradient };
                }
            },
        );
        let total = sum(
            gradient,
            #[inline(always)]
            |gradient| gradient,
        );
        let count = row.len() as f64;
        let of_mean = total / count;
        let of_deviation = match deviation {
            0.0 => 0.0,
            _ => total * self.multiplier / ((count - self.ddof as f64) * deviation),
        };
        vectorized(
            #[inline(always)]
            || {
                for (gradient, &x) in gradient.iter_mut().zip(row) {
                    *gradient -= of_mean + of_deviation * (x - mean);
                }
            },
        );
    }
}

struct Moments {
    mean: f64,
    deviation: f64,
}

/// NaN stays NaN.
#[inline(always)]
fn rectified(x: f64) -> f64 {
    if x <= 0.0 { 0.0 } else { x }
}

/// The sum of what `f` makes of all numbers, always in the same order; `f` itself must be inlined.
#[inline(always)]
fn sum(x: &[f64], f: impl Fn(f64) -> f64) -> f64 {
    /// Numbers that are summed side by side.
    const LANES: usize = 16;
    vectorized(
        #[inline(always)]
        || {
            let mut sums = [0f64; LANES];
            let (chunks, rest) = x.as_chunks::<LANES>();
            for chunk in chunks {
                for (sum, &x) in sums.iter_mut().zip(chunk) {
                    *sum += f(x);
                }
            }
            for (sum, &x) in sums.iter_mut().zip(rest) {
                *sum += f(x);
            }
            sums.iter().sum()
        },
    )
}

/// Every number as f64, exactly.
fn widen<T: Float>(from: &[T], to: &mut [f64]) {
    match T::DTYPE {
        DType::F32 => map(cast_slice::<T, f32>(from), to, f64::from),
        _ => T::widen(from, cast_slice_mut(to)), // which is f64
    }
}

/// Every number rounded to nearest, ties to even.
fn narrow<T: Float>(from: &[f64], to: &mut [T]) {
    match T::DTYPE {
        DType::F32 => map(
            from,
            cast_slice_mut::<T, f32>(to),
            #[inline(always)]
            |x| x as f32,
        ),
        _ => T::narrow(cast_slice(from), to),
    }
}

/// A new vector of rows, each made by `make` of a buffer of f64 and of the row's index.
fn rows<T: Float>(count: usize, width: usize, make: impl Fn(usize, &mut [f64]) + Sync) -> Vec<T> {
    /// Elements that are worth another thread.
    const CHUNK: usize = 1 << 14;
    let mut y = vec![T::zero(); count];
    let rows_at_once = (CHUNK / width).max(1);
    let chunks = y.chunks_mut(rows_at_once * width).enumerate();
    let buffer = || vec![0f64; width];
    threads::for_each_with(2 * count, chunks, buffer, |row, (i, y)| {
        for (at, y) in y.chunks_mut(width).enumerate() {
            make(i * rows_at_once + at, row);
            narrow(row, y);
        }
    });
    y
}

/// Evaluates an expression with the type that a storage has.
macro_rules! with_type {
    ($storage:expr, $name:expr, $T:ident => $call:expr) => {
        match $storage.dtype() {
            DType::F64 => {
                type $T = f64;
                $call
            }
            DType::F32 => {
                type $T = f32;
                $call
            }
            DType::BF16 => {
                type $T = bf16;
                $call
            }
            DType::F16 => {
                type $T = f16;
                $call
            }
            dtype => Err(Error::UnsupportedDTypeForOp(dtype, $name)),
        }
    };
}

/// The length of rows.
fn width(layout: &Layout) -> usize {
    layout.dims().last().copied().unwrap_or(1)
}

/// (x) to the rectified rows.
struct Rectify(Cutoff);

impl CustomOp1 for Rectify {
    fn name(&self) -> &'static str {
        "sparsity"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let width = width(layout);
        let y = with_type!(x, self.name(), T => {
            let x = slice::<T>(x, layout)?;
            Ok(T::to_cpu_storage_owned(rows::<T>(x.len(), width, |i, row| {
                widen(&x[i * width..][..width], row);
                self.0.apply(row);
            })))
        })?;
        Ok((y, layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        check_pair(x, gradient, "sparsity-backward")?;
        x.contiguous()?.apply_op2_no_bwd(&gradient.contiguous()?, &Backward(self.0)).map(Some)
    }
}

/// (x, gradient of the result) to the gradient of x.
struct Backward(Cutoff);

impl CustomOp2 for Backward {
    fn name(&self) -> &'static str {
        "sparsity-backward"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let width = width(layout);
        let dx = with_type!(x, self.name(), T => {
            let (x, gradient) = (slice::<T>(x, layout)?, slice::<T>(gradient, gradient_layout)?);
            Ok(T::to_cpu_storage_owned(rows::<T>(x.len(), width, |i, row| {
                let mut of_x = vec![0f64; width];
                widen(&x[i * width..][..width], &mut of_x);
                widen(&gradient[i * width..][..width], row);
                self.0.apply_backward(&of_x, row);
            })))
        })?;
        Ok((dx, layout.shape().clone()))
    }
}

#[cfg(test)]
mod tests;
