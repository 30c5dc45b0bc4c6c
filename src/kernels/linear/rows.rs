//! The left side of a product as the kernels read it.

use super::kernel::BLOCK;
use crate::kernels::memory::{Kept, kept, with_scratch};
use crate::kernels::number::Float;
use crate::kernels::threads;
use half::bf16;
use pulp::bytemuck::Pod;
use std::thread::LocalKey;

/// Rows of x, in blocks of columns: `[columns / BLOCK, count, BLOCK]`. A block of some rows is one
/// piece of memory then, which no stride maps onto the same cache lines.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub(super) blocks: Blocks<'a>,
    count: usize,
}

/// What x comes in.
#[derive(Clone, Copy)]
pub(super) enum Blocks<'a> {
    F32(&'a [[f32; BLOCK]]),
    /// For weights in bf16 on a machine that multiplies it with bf16.
    BF16(&'a [[bf16; BLOCK]]),
}

/// A type that blocks come in.
pub trait Block: Float + Pod {
    /// Blocks that are filled, `[columns / BLOCK, count]`, as rows. What is behind the last column
    /// must be 0.
    fn rows(blocks: &[[Self; BLOCK]], count: usize) -> Rows<'_>;

    /// Writes numbers of a type as those of blocks, rounded where these are narrower.
    fn convert<T: Float>(from: &[T], to: &mut [Self]);

    /// Memory for x, and for what lies between two products.
    fn kept() -> [&'static LocalKey<Kept>; 2];
}

macro_rules! block {
    ($t:ident, $variant:ident, $convert:expr) => {
        impl Block for $t {
            fn rows(blocks: &[[$t; BLOCK]], count: usize) -> Rows<'_> {
                Rows { blocks: Blocks::$variant(blocks), count }
            }

            fn convert<T: Float>(from: &[T], to: &mut [$t]) {
                let convert: fn(&[T], &mut [$t]) = $convert;
                convert(from, to);
            }

            fn kept() -> [&'static LocalKey<Kept>; 2] {
                kept!(X, BETWEEN);
                [&X, &BETWEEN]
            }
        }
    };
}

block!(f32, F32, T::to_f32s);
block!(bf16, BF16, T::to_bf16s);

impl Rows<'_> {
    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Calls `f` with the rows of x, `[count, columns]`, as blocks of a type.
    pub fn with<T: Float, B: Block, R>(x: &[T], columns: usize, f: impl FnOnce(Rows) -> R) -> R {
        /// Blocks that a thread fills at a time.
        const CHUNK: usize = 64;
        let count = x.len() / columns.max(1);
        let [kept, _] = B::kept();
        let len = columns.div_ceil(BLOCK) * count;
        with_scratch(kept, len, |blocks: &mut [[B; BLOCK]]| {
            let chunks = blocks.chunks_mut(CHUNK).enumerate();
            threads::for_each(len * BLOCK / 4, chunks, |(chunk, blocks)| {
                for (i, block) in blocks.iter_mut().enumerate() {
                    let i = chunk * CHUNK + i;
                    let (first, row) = (i / count * BLOCK, i % count);
                    let len = BLOCK.min(columns - first);
                    B::convert(&x[row * columns + first..][..len], &mut block[..len]);
                    block[len..].fill(B::zero());
                }
            });
            f(B::rows(blocks, count))
        })
    }
}
