//! The left side of a product as the kernels read it.

use super::convert::Number;
use super::kernel::BLOCK;
use crate::memory::on_large_pages;
use half::bf16;
use rayon::prelude::*;
use std::cell::Cell;
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
pub trait Block: Number {
    /// Blocks that are filled, `[columns / BLOCK, count]`, as rows. What is behind the last column
    /// must be 0.
    fn rows(blocks: &[[Self; BLOCK]], count: usize) -> Rows<'_>;

    /// Writes numbers of a type as those of blocks, rounded where these are narrower.
    fn convert<T: Number>(from: &[T], to: &mut [Self]);

    /// Memory for x, and for what lies between two products.
    fn kept() -> [&'static LocalKey<Cell<Vec<[Self; BLOCK]>>>; 2];
}

macro_rules! block {
    ($t:ident, $variant:ident, $convert:expr) => {
        impl Block for $t {
            fn rows(blocks: &[[$t; BLOCK]], count: usize) -> Rows<'_> {
                Rows { blocks: Blocks::$variant(blocks), count }
            }

            fn convert<T: Number>(from: &[T], to: &mut [$t]) {
                let convert: fn(&[T], &mut [$t]) = $convert;
                convert(from, to);
            }

            fn kept() -> [&'static LocalKey<Cell<Vec<[$t; BLOCK]>>>; 2] {
                thread_local! {
                    static X: Cell<Vec<[$t; BLOCK]>> = const { Cell::new(vec![]) };
                    static BETWEEN: Cell<Vec<[$t; BLOCK]>> = const { Cell::new(vec![]) };
                }
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
    pub fn with<T: Number, B: Block, R>(x: &[T], columns: usize, f: impl FnOnce(Rows) -> R) -> R {
        /// Elements that are worth another thread.
        const CHUNK: usize = 1 << 16;
        let count = x.len() / columns.max(1);
        let [kept, _] = B::kept();
        with_memory(kept, [B::zero(); BLOCK], columns.div_ceil(BLOCK) * count, |blocks| {
            let fill = |(i, block): (usize, &mut [B; BLOCK])| {
                let (first, row) = (i / count * BLOCK, i % count);
                let len = BLOCK.min(columns - first);
                B::convert(&x[row * columns + first..][..len], &mut block[..len]);
                block[len..].fill(B::zero());
            };
            match x.len() {
                ..CHUNK => blocks.iter_mut().enumerate().for_each(fill),
                _ => blocks.par_iter_mut().enumerate().with_min_len(CHUNK / BLOCK).for_each(fill),
            }
            f(B::rows(blocks, count))
        })
    }
}

/// Calls `f` with `len` elements that this thread keeps from one call to the next, with what was left in
/// them. They are taken out meanwhile, so that a call inside `f`, which a thread
/// that waits for others may well make, has its own.
pub fn with_memory<T: Copy, R>(
    kept: &'static LocalKey<Cell<Vec<T>>>,
    zero: T,
    len: usize,
    f: impl FnOnce(&mut [T]) -> R,
) -> R {
    let mut memory = kept.take();
    if memory.len() < len {
        memory = on_large_pages(len);
        memory.resize(len, zero);
    }
    let result = f(&mut memory[..len]);
    kept.set(memory);
    result
}
