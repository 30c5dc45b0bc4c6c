//! Between projections and attention, on the CPU in one pass each way: what a projection returns is
//! split into heads, widened, normed and rotated; what the heads return is put together and rounded.

use crate::linear::Number;
use crate::model::norm::Scale;
use crate::operands::slice;
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp3, DType, Error, Layout, Result, Shape, Tensor, WithDType,
};
use half::{bf16, f16};
use rayon::prelude::*;

/// Elements that are worth another thread.
const CHUNK: usize = 1 << 14;

/// Some neighbouring heads of what the projections return in one.
pub(super) struct Split {
    /// The first head's first column.
    pub first: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub norm: Option<Scale>,
}

impl Split {
    /// `[batch, seq, width]` to `[batch, heads, seq, head_dim]` in f32; rotated if there are
    /// cosines and sines, `[seq, head_dim / 2]`.
    pub fn apply(self, x: &Tensor, rope: Option<(Tensor, Tensor)>) -> Result<Tensor> {
        let x = x.contiguous()?;
        match rope {
            Some((cos, sin)) => x.apply_op3_no_bwd(&cos.contiguous()?, &sin.contiguous()?, &self),
            None => x.apply_op1_no_bwd(&self),
        }
    }

    fn split(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        rope: Option<(&[f32], &[f32])>,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, seq, width) = layout.shape().dims3()?;
        let shape = Shape::from((batch, self.heads, seq, self.head_dim));
        let split = match x {
            CpuStorage::F32(_) => self.rows(slice::<f32>(x, layout)?, (seq, width), rope),
            CpuStorage::BF16(_) => self.rows(slice::<bf16>(x, layout)?, (seq, width), rope),
            CpuStorage::F16(_) => self.rows(slice::<f16>(x, layout)?, (seq, width), rope),
            _ => return Err(Error::UnsupportedDTypeForOp(x.dtype(), self.op())),
        };
        Ok((CpuStorage::F32(split), shape))
    }

    fn op(&self) -> &'static str {
        "attention-heads"
    }

    fn rows<T: Number>(
        &self,
        x: &[T],
        (seq, width): (usize, usize),
        rope: Option<(&[f32], &[f32])>,
    ) -> Vec<f32> {
        let dim = self.head_dim;
        let mut out = vec![0f32; x.len() / width * self.heads * dim];
        let rows = out.par_chunks_mut(dim).enumerate().with_min_len(CHUNK / dim.max(1));
        rows.for_each(|(row, out)| {
            let (batch, head, position) =
                (row / (self.heads * seq), row / seq % self.heads, row % seq);
            let start = (batch * seq + position) * width + self.first + head * dim;
            T::to_f32s(&x[start..start + dim], out);
            if let Some(norm) = &self.norm {
                norm.apply(out);
            }
            if let Some((cos, sin)) = rope {
                let at = position * dim / 2..(position + 1) * dim / 2;
                rotate(out, &cos[at.clone()], &sin[at]);
            }
        });
        out
    }
}

/// Turns every pair of a number in the first half and its counterpart in the second.
fn rotate(x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = x.split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    }
}

impl CustomOp1 for Split {
    fn name(&self) -> &'static str {
        self.op()
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.split(x, layout, None)
    }
}

impl CustomOp3 for Split {
    fn name(&self) -> &'static str {
        self.op()
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        layout: &Layout,
        cos: &CpuStorage,
        cos_layout: &Layout,
        sin: &CpuStorage,
        sin_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let tables = (slice(cos, cos_layout)?, slice(sin, sin_layout)?);
        self.split(x, layout, Some(tables))
    }
}

/// Puts heads together, `[batch, heads, seq, head_dim]` in f32 to `[batch, seq, heads · head_dim]` in
/// a dtype.
pub(super) fn merge(heads: &Tensor, dtype: DType) -> Result<Tensor> {
    heads.contiguous()?.apply_op1_no_bwd(&Merge(dtype))
}

struct Merge(DType);

impl CustomOp1 for Merge {
    fn name(&self) -> &'static str {
        "merge-heads"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, heads, seq, dim) = layout.shape().dims4()?;
        let x = slice::<f32>(x, layout)?;
        let merged = match self.0 {
            DType::F32 => storage(merged::<f32>(x, (heads, seq, dim))),
            DType::BF16 => storage(merged::<bf16>(x, (heads, seq, dim))),
            DType::F16 => storage(merged::<f16>(x, (heads, seq, dim))),
            dtype => return Err(Error::UnsupportedDTypeForOp(dtype, "merge-heads")),
        };
        Ok((merged, Shape::from((batch, seq, heads * dim))))
    }
}

fn storage<T: WithDType>(numbers: Vec<T>) -> CpuStorage {
    T::to_cpu_storage_owned(numbers)
}

fn merged<T: Number>(x: &[f32], (heads, seq, dim): (usize, usize, usize)) -> Vec<T> {
    let mut out = vec![T::zero(); x.len()];
    let rows = out.par_chunks_mut(dim).enumerate().with_min_len(CHUNK / dim.max(1));
    rows.for_each(|(row, out)| {
        let (position, head) = (row / heads, row % heads);
        let (batch, position) = (position / seq, position % seq);
        let start = ((batch * heads + head) * seq + position) * dim;
        T::from_f32s(&x[start..start + dim], out);
    });
    out
}
