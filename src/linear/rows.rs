//! The left side of a product as the kernels read it.

use super::convert::Number;
use super::kernel::BLOCK;
use rayon::prelude::*;
use std::cell::Cell;

/// Rows of x in f32, in blocks of columns: `[columns / BLOCK, count, BLOCK]`. A block of some rows
/// is one piece of memory then, which no stride maps onto the same cache lines.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub(super) blocks: &'a [[f32; BLOCK]],
    count: usize,
}

impl<'a> Rows<'a> {
    /// Blocks that are filled: `[columns / BLOCK, count]`. What is behind the last column must be 0.
    pub fn new(blocks: &'a [[f32; BLOCK]], count: usize) -> Self {
        Self { blocks, count }
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Calls `f` with the rows of x, `[count, columns]`, in memory that is kept for the next call.
    pub fn with<T: Number, R>(x: &[T], columns: usize, f: impl FnOnce(Rows) -> R) -> R {
        /// Elements that are worth another thread.
        const CHUNK: usize = 1 << 16;
        thread_local!(static BLOCKS: Cell<Vec<[f32; BLOCK]>> = const { Cell::new(vec![]) });
        let count = x.len() / columns.max(1);
        with_memory(&BLOCKS, [0.0; BLOCK], columns.div_ceil(BLOCK) * count, |blocks| {
            let rows = |(i, block): (usize, &mut [f32; BLOCK])| {
                let (first, row) = (i / count * BLOCK, i % count);
                let len = BLOCK.min(columns - first);
                T::to_f32s(&x[row * columns + first..][..len], &mut block[..len]);
                block[len..].fill(0.0);
            };
            match x.len() {
                ..CHUNK => blocks.iter_mut().enumerate().for_each(rows),
                _ => blocks.par_iter_mut().enumerate().with_min_len(CHUNK / BLOCK).for_each(rows),
            }
            f(Rows { blocks, count })
        })
    }
}

/// Calls `f` with `len` elements that this thread keeps from one call to the next, with what the
/// last one left in them. They are taken out meanwhile, so that a call inside `f`, which a thread
/// that waits for others may well make, has its own.
pub fn with_memory<T: Copy, R>(
    kept: &'static std::thread::LocalKey<Cell<Vec<T>>>,
    zero: T,
    len: usize,
    f: impl FnOnce(&mut [T]) -> R,
) -> R {
    let mut memory = kept.take();
    if memory.len() < len {
        memory.resize(len, zero);
    }
    let result = f(&mut memory[..len]);
    kept.set(memory);
    result
}
