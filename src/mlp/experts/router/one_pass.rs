//! A packed router in one operation: its few numbers a row are not worth a tensor for every step.

use super::{Router, Routing, top};
use crate::kernels::exp::{exp, vectorized};
use crate::kernels::linear::{PANEL, Panels, Weight};
use crate::kernels::number::Float;
use crate::kernels::operands::with_slice;
use crate::kernels::threads;
use candle_core::{DType, Device, Result, Tensor};
use half::{bf16, f16};

/// Rows at a time.
const ROWS: usize = 256;

impl Router {
    /// The routing of `[rows, hidden]`, if the router is packed and no gradient is asked for.
    pub(super) fn one_pass(&self, x: &Tensor) -> Result<Option<Routing>> {
        let tracked = [x, &self.scale, &self.per_expert_scale].iter().any(|x| x.track_op());
        let Weight::Packed(proj) = self.proj.weight() else { return Ok(None) };
        if tracked || self.rounding.is_some() || !x.device().is_cpu() {
            return Ok(None);
        }
        let (x, proj) = (x.contiguous()?, &proj.panels()?);
        match x.dtype() {
            DType::F32 => with_slice(&x, |x: &[f32]| self.rows(proj, x))?.map(Some),
            DType::BF16 => with_slice(&x, |x: &[bf16]| self.rows(proj, x))?.map(Some),
            DType::F16 => with_slice(&x, |x: &[f16]| self.rows(proj, x))?.map(Some),
            _ => Ok(None),
        }
    }

    fn rows<T: Float>(&self, proj: &Panels, x: &[T]) -> Result<Routing> {
        let numbers = |x: &Tensor| x.to_dtype(DType::F32)?.to_vec1::<f32>();
        let (scale, of_experts) = (numbers(&self.scale)?, numbers(&self.per_expert_scale)?);
        let (hidden, experts, k) = (self.hidden_size(), self.experts(), self.top_k);
        let rows = x.len() / hidden;
        let (mut indices, mut weights) = (vec![0u32; rows * k], vec![0f32; rows * k]);
        threads::operation(|| {
            let some = indices.chunks_mut(ROWS * k).zip(weights.chunks_mut(ROWS * k));
            for (x, (indices, weights)) in x.chunks(ROWS * hidden).zip(some) {
                let count = x.len() / hidden;
                let mut normed = vec![0f32; x.len()];
                let pairs = normed.chunks_mut(hidden).zip(x.chunks(hidden));
                threads::for_each(x.len(), pairs, |(normed, x)| {
                    T::to_f32s(x, normed);
                    self.norm(&scale, normed);
                });
                let mut scores = vec![0f32; count * experts];
                proj.with_rows(&normed, |x| proj.matmul(x, None, &mut scores, |_, row| row));
                let routed = scores.chunks_mut(experts).zip(indices.chunks_mut(k));
                let routed = routed.zip(weights.chunks_mut(k));
                threads::for_each(4 * count * experts, routed, |((scores, indices), weights)| {
                    self.choose_row(&of_experts, scores, indices, weights);
                });
            }
        });
        let shape = (rows, k);
        let indices = Tensor::from_vec(indices, shape, &Device::Cpu)?;
        Routing::new(&indices, &Tensor::from_vec(weights, shape, &Device::Cpu)?)
    }

    /// `x / sqrt(mean(x²) + eps) ⊙ scale · hidden^(-1/2)`, with the mean summed in f64.
    fn norm(&self, scale: &[f32], x: &mut [f32]) {
        /// Numbers that are summed side by side.
        const LANES: usize = PANEL / 2;
        let root = self.root() as f32;
        vectorized(
            #[inline(always)]
            || {
                let mut squares = [0f64; LANES];
                let (chunks, rest) = x.as_chunks::<LANES>();
                for chunk in chunks.iter().map(<[f32; LANES]>::as_slice).chain([rest]) {
                    for (sum, &x) in squares.iter_mut().zip(chunk) {
                        *sum = f64::from(x).mul_add(f64::from(x), *sum);
                    }
                }
                let mean = squares.iter().sum::<f64>() / x.len() as f64;
                let factor = (1.0 / (mean + self.eps).sqrt()) as f32;
                for (x, scale) in x.iter_mut().zip(scale) {
                    *x = *x * factor * scale * root;
                }
            },
        );
    }

    /// Chooses for one row, whose scores become probabilities.
    fn choose_row(
        &self,
        of_experts: &[f32],
        scores: &mut [f32],
        indices: &mut [u32],
        weights: &mut [f32],
    ) {
        softmax(scores);
        let mut sum = 0f32;
        for ((at, index), weight) in top(scores, self.top_k).zip(&mut *indices).zip(&mut *weights) {
            (*index, *weight) = (at, scores[at as usize]);
            sum += *weight;
        }
        for (weight, &index) in weights.iter_mut().zip(&*indices) {
            if self.renormalises {
                *weight /= sum;
            }
            if self.scales_experts {
                *weight *= of_experts[index as usize];
            }
        }
    }
}

/// The softmax of one row, in its place: exponentials and their sum in f64. NaN makes all of it NaN, and so
/// do infinite scores.
fn softmax(scores: &mut [f32]) {
    let highest = f64::from(scores.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let mut exponentials: Vec<f64> = scores.iter().map(|&x| f64::from(x) - highest).collect();
    vectorized(
        #[inline(always)]
        || exponentials.iter_mut().for_each(|x| *x = exp(*x)),
    );
    let sum: f64 = exponentials.iter().sum();
    for (score, exponential) in scores.iter_mut().zip(&exponentials) {
        *score = (exponential / sum) as f32;
    }
}
