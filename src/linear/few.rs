//! The product for few rows, which reading the weight limits: one pass over it serves all of them.

use crate::contiguous::slice;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// How many rows count as few: their accumulators and a piece of the weight fit the registers.
pub(super) const ROWS: usize = 8;

/// Rows of the weight that a thread takes at a time.
const CHUNK: usize = 32;

/// `x·weightᵀ` in f32, `x` being `[1..=ROWS, in]` and `weight` `[out, in]`, both contiguous.
///
/// Every element is a dot product summed in one order, whatever the number of rows or threads.
pub(super) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op2_no_bwd(weight, &Product)
}

struct Product;

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "few-row-product"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((rows, width), (out, columns)) =
            (x_layout.shape().dims2()?, weight_layout.shape().dims2()?);
        if width != columns {
            candle_core::bail!("an input of width {width} for a weight of {columns} columns")
        }
        let (x, weight) = (slice::<f32>(x, x_layout)?, slice::<f32>(weight, weight_layout)?);
        let mut transposed = vec![0f32; out * rows]; // [out, rows]
        let pieces = transposed.par_chunks_mut(CHUNK * rows).zip(weight.par_chunks(CHUNK * width));
        pieces.for_each(|(y, weight)| match rows {
            1 => Arch::new().dispatch(Dots::<1> { x, weight, y }),
            2 => Arch::new().dispatch(Dots::<2> { x, weight, y }),
            3 => Arch::new().dispatch(Dots::<3> { x, weight, y }),
            4 => Arch::new().dispatch(Dots::<4> { x, weight, y }),
            5 => Arch::new().dispatch(Dots::<5> { x, weight, y }),
            6 => Arch::new().dispatch(Dots::<6> { x, weight, y }),
            7 => Arch::new().dispatch(Dots::<7> { x, weight, y }),
            _ => Arch::new().dispatch(Dots::<8> { x, weight, y }),
        });
        let y = (0..rows).flat_map(|row| transposed.iter().skip(row).step_by(rows)).copied();
        Ok((CpuStorage::F32(y.collect()), Shape::from((rows, out))))
    }
}

/// `N` rows of x against rows of the weight: `y[i][r] = weight[i]·x[r]`.
struct Dots<'a, const N: usize> {
    x: &'a [f32],
    weight: &'a [f32],
    y: &'a mut [f32],
}

impl<const N: usize> WithSimd for Dots<'_, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let width = self.x.len() / N;
        let x: [_; N] = std::array::from_fn(|r| S::as_simd_f32s(&self.x[r * width..][..width]));
        for (weight, y) in self.weight.chunks_exact(width).zip(self.y.chunks_exact_mut(N)) {
            let (weight, rest) = S::as_simd_f32s(weight);
            // Two sums a row hide the latency of the additions.
            let mut sums = [[simd.splat_f32s(0.0); 2]; N];
            for (i, &w) in weight.iter().enumerate() {
                for r in 0..N {
                    sums[r][i % 2] = simd.mul_add_e_f32s(w, x[r].0[i], sums[r][i % 2]);
                }
            }
            for r in 0..N {
                let sum = simd.add_f32s(sums[r][0], sums[r][1]);
                let tail: f32 = rest.iter().zip(x[r].1).map(|(w, x)| w * x).sum();
                y[r] = simd.reduce_sum_f32s(sum) + tail;
            }
        }
    }
}
