//! The packed block in one operation: what is between gate and down stays in the cache, in the
//! order in which down reads it.

use crate::kernels::activation::Activation;
use crate::kernels::linear::{
    PANEL, Packed, Panels, Rows, Strip, TILE, TileType, as_rows, rows_at_a_time, strips,
};
use crate::kernels::memory::with_scratch;
use crate::kernels::number::{BUFFER, Float};
use crate::kernels::operands::slice;
use crate::kernels::threads;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, DType, Error, Layout, Result, Shape, Tensor};
use half::{bf16, f16};
use std::ops::Range;

/// A block under some activations: `[rows, hidden]` to `[activations, rows, hidden]`.
pub(super) struct OnePass {
    /// Gate and up in one, `[2, intermediate, hidden]`, and their bias, `[2, intermediate]`.
    pub gate_up: (Packed, Option<Tensor>),
    /// `[hidden, intermediate]`, and its bias.
    pub down: (Packed, Option<Tensor>),
    pub activations: Vec<Activation>,
}

impl OnePass {
    /// `[..., hidden]` to `[activations, ..., hidden]`.
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let dims = [&[self.activations.len()], xs.dims()].concat();
        let biases = Biases { gate_up: numbers(&self.gate_up.1)?, down: numbers(&self.down.1)? };
        let x = as_rows(xs)?.contiguous()?;
        let (gate_up, down) = (self.gate_up.0.panels()?, self.down.0.panels()?);
        let op = Op { gate_up, down, activations: &self.activations, biases };
        x.apply_op1_no_bwd(&op)?.reshape(dims)
    }
}

fn numbers(bias: &Option<Tensor>) -> Result<Option<Vec<f32>>> {
    let numbers = |bias: &Tensor| bias.to_dtype(DType::F32)?.flatten_all()?.to_vec1();
    bias.as_ref().map(numbers).transpose()
}

struct Biases {
    gate_up: Option<Vec<f32>>,
    down: Option<Vec<f32>>,
}

struct Op<'a> {
    gate_up: Panels,
    down: Panels,
    activations: &'a [Activation],
    biases: Biases,
}

impl CustomOp1 for Op<'_> {
    fn name(&self) -> &'static str {
        "gemma-mlp"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = layout.shape().dims2()?;
        let hidden = self.gate_up.in_features();
        if width != hidden {
            candle_core::bail!("an input of width {width} for a block of hidden size {hidden}")
        }
        let y = match x {
            CpuStorage::F32(_) => self.forward::<f32>(slice(x, layout)?),
            CpuStorage::BF16(_) => self.forward::<bf16>(slice(x, layout)?),
            CpuStorage::F16(_) => self.forward::<f16>(slice(x, layout)?),
            _ => return Err(Error::UnsupportedDTypeForOp(x.dtype(), "gemma-mlp")),
        };
        let shape = (self.activations.len(), rows, self.down.out_features());
        Ok((y, Shape::from(shape)))
    }
}

impl Op<'_> {
    fn forward<T: Float>(&self, x: &[T]) -> CpuStorage {
        threads::operation(|| match self.down.takes_bf16::<T>() {
            true => self.forward_in::<T, bf16>(x),
            false => self.forward_in::<T, f32>(x),
        })
    }

    /// The outputs `[activations, rows, hidden]`, with the gated products in a type that down takes: some
    /// rows at a time.
    fn forward_in<T: Float, B: TileType>(&self, x: &[T]) -> CpuStorage {
        let (gate_up, down) = (&self.gate_up, &self.down);
        let (width, activations) = (gate_up.in_features(), self.activations.len());
        let rows = x.len().checked_div(width).unwrap_or(0);
        let mut y = vec![T::zero(); activations * rows * down.out_features()];
        let at_a_time = rows_at_a_time(activations * gate_up.out_features());
        for (i, some) in x.chunks((at_a_time * width).max(1)).enumerate() {
            let count = some.len() / width;
            // Rows of the product are counted through all activations.
            let row_of = |_, row: usize| row / count * rows + i * at_a_time + row % count;
            let [_, kept] = B::kept();
            let tiles = gate_up.out_features().div_ceil(TILE) * activations * count;
            with_scratch(kept, tiles, |product: &mut [[B; TILE]]| {
                gate_up.with_rows(some, |x| {
                    gate_up.with_ready(x, |x| self.product::<T, B>(x, product));
                });
                let product = B::rows(product, activations * count);
                down.matmul(product, self.biases.down.as_deref(), &mut y, row_of);
            });
        }
        T::to_cpu_storage_owned(y)
    }

    /// `activation(gate) ⊙ up` for each activation: `[tiles, activations, rows, TILE]`.
    fn product<T: Float, B: TileType>(&self, x: Rows, product: &mut [[B; TILE]]) {
        let gate_up = &self.gate_up;
        let step = gate_up.panels_at_a_time() * PANEL;
        let rows = self.activations.len() * x.count();
        if rows == 0 {
            return;
        }
        let tiles = product.chunks_mut(rows).enumerate();
        let strips = tiles.flat_map(|(i, tile)| {
            strips(tile.as_flattened_mut(), TILE, step).map(move |strip| (i * TILE, strip))
        });
        threads::for_each(gate_up.nanoseconds(x.count()), strips, |(first, mut strip)| {
            let columns = first + strip.columns().start..first + strip.columns().end;
            let real =
                columns.start.min(gate_up.out_features())..columns.end.min(gate_up.out_features());
            if !real.is_empty() {
                gate_up.sums(x, real.clone(), |sums| {
                    self.activate::<T, B>(sums, &real, x.count(), &mut strip);
                });
            }
            // What pads the last tile is multiplied by zeros.
            for row in 0..strip.rows() {
                strip.row(row)[real.len()..].fill(B::zero());
            }
        });
    }

    /// Writes some columns of the products of `count` rows, out of the sums for gate and up.
    fn activate<T: Float, B: TileType>(
        &self,
        sums: &mut [f32],
        columns: &Range<usize>,
        count: usize,
        out: &mut Strip<B>,
    ) {
        let width = columns.len().next_multiple_of(PANEL);
        let at_once = BUFFER / width;
        let [mut gate, mut up, mut product] = [[T::zero(); BUFFER]; 3];
        for (i, sums) in sums.chunks_mut(2 * at_once * width).enumerate() {
            let len = sums.len() / 2;
            let (gate, up, product) = (&mut gate[..len], &mut up[..len], &mut product[..len]);
            self.split(sums, columns.start, width, gate, up);
            for (at, activation) in self.activations.iter().enumerate() {
                activation.value().gated::<T>(gate, up, product);
                for (row, product) in product.chunks_exact(width).enumerate() {
                    let out = out.row(at * count + i * at_once + row);
                    B::convert(&product[..columns.len()], &mut out[..columns.len()]);
                }
            }
        }
    }

    /// Gate and up of some rows, `[rows, width]`, out of their sums, `[rows, panels, 2, PANEL]`: with
    /// their biases from the `first` on, rounded to the type of x as a layer rounds what it returns.
    fn split<T: Float>(
        &self,
        sums: &mut [f32],
        first: usize,
        width: usize,
        gate: &mut [T],
        up: &mut [T],
    ) {
        let panels = sums.as_chunks_mut::<PANEL>().0.as_chunks_mut::<2>().0;
        let places = gate.as_chunks_mut::<PANEL>().0.iter_mut().zip(up.as_chunks_mut::<PANEL>().0);
        for (panel, ([gate_sums, up_sums], (gate, up))) in panels.iter_mut().zip(places).enumerate()
        {
            if let Some(bias) = &self.biases.gate_up {
                let first = first + panel * PANEL % width;
                let (of_gate, of_up) = bias.split_at(bias.len() / 2);
                for (sums, bias) in [(&mut *gate_sums, of_gate), (&mut *up_sums, of_up)] {
                    sums.iter_mut().zip(&bias[first..]).for_each(|(sum, bias)| *sum += bias);
                }
            }
            T::from_f32s(gate_sums, gate);
            T::from_f32s(up_sums, up);
        }
    }
}
