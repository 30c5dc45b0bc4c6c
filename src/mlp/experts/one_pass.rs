//! Packed experts in one operation: the rows that chose an expert are gathered, and its weights read once for
//! all of them.
//!
//! Some experts at a time, in order of expert index: first gate and up of all of them, which threads share
//! out panel by panel, then down, where every thread sums some columns over the experts. So a token that
//! goes through a few experts keeps all threads reading, and no order of additions depends on threads.

use super::{Choice, Expert, runs};
use crate::kernels::exp::vectorized;
use crate::kernels::linear::gathered::{as_rows, split_mut};
use crate::kernels::linear::{PANEL, Panels, Rows, Strip, TILE, TileType, rows_at_a_time, strips};
use crate::kernels::memory::with_scratch;
use crate::kernels::number::{BUFFER, Float};
use crate::kernels::operands::slice;
use crate::kernels::threads;
use crate::mlp::gating::Gating;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Error, Layout, Result, Shape};
use half::{bf16, f16};
use std::ops::Range;

/// Experts under some sides' gatings: `[rows, hidden]` to `[sides, rows, hidden]`.
pub(super) struct OnePass<'a> {
    pub experts: &'a [Expert],
    /// In order of expert index.
    pub choices: &'a [Choice],
    /// Of the routing: `[rows · k]`.
    pub weights: &'a [f32],
    /// Each side's, for equal parts of the rows.
    pub sides: &'a [&'a [Gating]],
}

impl CustomOp1 for OnePass<'_> {
    fn name(&self) -> &'static str {
        "gemma-experts"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, hidden) = layout.shape().dims2()?;
        let y = match x {
            CpuStorage::F32(_) => self.forward::<f32>(slice(x, layout)?, rows)?,
            CpuStorage::BF16(_) => self.forward::<bf16>(slice(x, layout)?, rows)?,
            CpuStorage::F16(_) => self.forward::<f16>(slice(x, layout)?, rows)?,
            _ => return Err(Error::UnsupportedDTypeForOp(x.dtype(), "gemma-experts")),
        };
        Ok((y, Shape::from((self.sides.len(), rows, hidden))))
    }
}

/// An expert in memory.
struct InMemory {
    gate_up: Panels,
    down: Panels,
}

/// Rows that chose an expert.
#[derive(Clone, Copy)]
struct Piece<'a> {
    expert: &'a InMemory,
    rows: &'a [u32],
    /// Where their weights are.
    pairs: &'a [u32],
}

impl OnePass<'_> {
    fn forward<T: Float>(&self, x: &[T], rows: usize) -> Result<CpuStorage> {
        let in_memory = |choice: &Choice| {
            let Expert { gate_up, down } = &self.experts[choice.expert];
            Ok(InMemory { gate_up: gate_up.panels()?, down: down.panels()? })
        };
        let experts = self.choices.iter().map(in_memory).collect::<Result<Vec<_>>>()?;
        let Some(first) = experts.first() else {
            let zeros = vec![T::zero(); self.sides.len() * x.len()];
            return Ok(T::to_cpu_storage_owned(zeros));
        };
        Ok(threads::operation(|| match first.down.takes_bf16::<T>() {
            true => self.forward_in::<T, bf16>(&experts, x, rows),
            false => self.forward_in::<T, f32>(&experts, x, rows),
        }))
    }

    /// With the gated products in a type that down takes.
    fn forward_in<T: Float, B: TileType>(
        &self,
        experts: &[InMemory],
        x: &[T],
        rows: usize,
    ) -> CpuStorage {
        let InMemory { gate_up, down } = &experts[0];
        let sides = self.sides.len();
        let mut sums = vec![0f32; sides * rows * down.out_features()];
        let at_a_time = rows_at_a_time(gate_up.in_features() + sides * down.in_features());
        let chosen = self.choices.iter().zip(experts);
        let pieces = chosen.flat_map(|(Choice { rows, pairs, .. }, expert)| {
            let chunks = rows.chunks(at_a_time).zip(pairs.chunks(at_a_time));
            chunks.map(move |(rows, pairs)| Piece { expert, rows, pairs })
        });
        let pieces: Vec<_> = pieces.collect();
        let mut rest = pieces.as_slice();
        while !rest.is_empty() {
            let mut count = 0;
            let some = rest.iter().take_while(|piece| {
                count += piece.rows.len();
                count <= at_a_time
            });
            let (some, others) = rest.split_at(some.count().max(1));
            rest = others;
            let counts: Vec<usize> = some.iter().map(|piece| sides * piece.rows.len()).collect();
            let tiles = down.in_features().div_ceil(TILE);
            let [_, kept] = B::kept();
            with_scratch(
                kept,
                tiles * counts.iter().sum::<usize>(),
                |product: &mut [[B; TILE]]| {
                    let groups: Vec<&[u32]> = some.iter().map(|piece| piece.rows).collect();
                    gate_up.with_gathered(x, &groups, |x| {
                        self.product::<T, B>(some, x, split_mut(product, tiles, &counts), rows);
                    });
                    self.add(some, &as_rows(product, tiles, &counts), &mut sums, rows);
                },
            );
        }
        rounded::<T>(&sums)
    }

    /// `activation(gate) ⊙ up` of each piece under each side: `[tiles, sides, rows, TILE]`.
    fn product<'a, T: Float, B: TileType>(
        &self,
        pieces: &[Piece],
        x: &[Rows],
        products: impl Iterator<Item = &'a mut [[B; TILE]]> + Send,
        rows: usize,
    ) {
        let gate_up = &pieces[0].expert.gate_up;
        let step = gate_up.panels_at_a_time() * PANEL;
        let work = pieces.iter().zip(x).zip(products).flat_map(|((piece, x), product)| {
            let tiles = product.chunks_mut(self.sides.len() * x.count()).enumerate();
            tiles.flat_map(move |(i, tile)| {
                strips(tile.as_flattened_mut(), TILE, step)
                    .map(move |strip| (piece, *x, i * TILE, strip))
            })
        });
        threads::for_each(nanoseconds(x, gate_up), work, |(piece, x, first, mut strip)| {
            let columns = first + strip.columns().start..first + strip.columns().end;
            let real =
                columns.start.min(gate_up.out_features())..columns.end.min(gate_up.out_features());
            if !real.is_empty() {
                piece.expert.gate_up.sums(x, real.clone(), |sums| {
                    self.activate::<T, B>(sums, &real, (piece.rows, rows), &mut strip);
                });
            }
            // What pads the last tile is multiplied by zeros.
            for row in 0..strip.rows() {
                strip.row(row)[real.len()..].fill(B::zero());
            }
        });
    }

    /// Writes some columns of a piece's products, out of the sums for gate and up, `[rows, panels, 2, PANEL]`.
    /// `rows` are the piece's, and how many there are in all.
    fn activate<T: Float, B: TileType>(
        &self,
        sums: &[f32],
        columns: &Range<usize>,
        (rows, all): (&[u32], usize),
        out: &mut Strip<B>,
    ) {
        let width = columns.len().next_multiple_of(PANEL);
        let at_once = BUFFER / width;
        let [mut gate, mut up, mut product] = [[T::zero(); BUFFER]; 3];
        let chunks = sums.chunks(2 * at_once * width).zip(rows.chunks(at_once));
        for (i, (sums, some)) in chunks.enumerate() {
            // Gate and up, [rows, width], rounded to the type of x as a layer rounds what it returns.
            let panels = sums.as_chunks::<PANEL>().0.as_chunks::<2>().0;
            let places = gate.as_chunks_mut::<PANEL>().0.iter_mut();
            let places = places.zip(up.as_chunks_mut::<PANEL>().0);
            for ([of_gate, of_up], (gate, up)) in panels.iter().zip(places) {
                T::from_f32s(of_gate, gate);
                T::from_f32s(of_up, up);
            }
            for (side, gatings) in self.sides.iter().enumerate() {
                for (part, run) in runs(some, all / gatings.len()) {
                    let numbers = run.start * width..run.end * width;
                    let product = &mut product[numbers.clone()];
                    let function = gatings[part].activation.value();
                    function.gated::<T>(&gate[numbers.clone()], &up[numbers], product);
                    for (row, product) in run.zip(product.chunks_exact(width)) {
                        let out = out.row(side * rows.len() + i * at_once + row);
                        B::convert(&product[..columns.len()], &mut out[..columns.len()]);
                    }
                }
            }
        }
    }

    /// Adds to the sums, `[sides, rows, hidden]`, what down makes of the pieces' products, times the weights.
    fn add(&self, pieces: &[Piece], products: &[Rows], sums: &mut [f32], rows: usize) {
        let down = &pieces[0].expert.down;
        let strips = strips(sums, down.out_features(), down.panels_at_a_time() * PANEL);
        threads::for_each(nanoseconds(products, down), strips, |mut strip| {
            for (piece, &product) in pieces.iter().zip(products) {
                let count = piece.rows.len();
                piece.expert.down.sums(product, strip.columns(), |sums| {
                    let width = sums.len() / product.count();
                    for (i, sums) in sums.chunks_exact(width).enumerate() {
                        let (side, at) = (i / count, i % count);
                        let weight = self.weights[piece.pairs[at] as usize];
                        add_weighted(
                            strip.row(side * rows + piece.rows[at] as usize),
                            sums,
                            weight,
                        );
                    }
                });
            }
        });
    }
}

/// What products with a weight of each piece's take one thread, roughly.
fn nanoseconds(products: &[Rows], weight: &Panels) -> usize {
    products.iter().map(|x| weight.nanoseconds(x.count())).sum()
}

/// `sums + weight · xs`, in two roundings, as candle's operations add.
fn add_weighted(sums: &mut [f32], xs: &[f32], weight: f32) {
    vectorized(
        #[inline(always)]
        || sums.iter_mut().zip(xs).for_each(|(sum, x)| *sum += weight * x),
    );
}

/// The sums, in a type.
fn rounded<T: Float>(sums: &[f32]) -> CpuStorage {
    /// Numbers that are worth another thread.
    const CHUNK: usize = 1 << 16;
    let mut y = vec![T::zero(); sums.len()];
    let chunks = y.chunks_mut(CHUNK).zip(sums.chunks(CHUNK));
    threads::for_each(sums.len() / 4, chunks, |(y, sums)| T::from_f32s(sums, y));
    T::to_cpu_storage_owned(y)
}
