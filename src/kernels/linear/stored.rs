//! The dtypes that packed weights are stored in, and how a vector of them becomes f32.

use candle_core::WithDType;
use half::{bf16, f16};
use pulp::{Simd, bytemuck};
use std::marker::PhantomData;

/// Rows of the weight that are packed side by side; to each belongs a column of the product.
pub const PANEL: usize = 32;

/// What a step along a panel holds, on a cache line's boundary: of f32 the 32 numbers of a column; of
/// half-precision types those of two neighbouring columns in 32 pairs, the first column's number in
/// the low bits, so that one load gives both.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Columns<W>([u32; PANEL], PhantomData<W>);

impl<W> Columns<W> {
    /// Zeros.
    pub const ZEROS: Self = Self([0; PANEL], PhantomData);
}

// SAFETY: 128 bytes without padding, of which any bits are numbers.
unsafe impl bytemuck::Zeroable for Columns<f32> {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Columns<f32> {}

impl Columns<bf16> {
    /// The pairs of all rows.
    #[cfg(target_arch = "x86_64")]
    pub fn pairs(&self) -> [u32; PANEL] {
        self.0
    }
}

impl Columns<u32> {
    /// The words of all rows.
    pub fn words(&self) -> &[u32; PANEL] {
        &self.0
    }

    /// The halves of all rows' words: all lower ones, then all upper ones.
    pub fn halves(&self) -> &[[u16; PANEL]; 2] {
        bytemuck::cast_ref(&self.0)
    }

    /// The bytes of all rows' words: all lowest ones first.
    pub fn bytes(&self) -> &[[i8; PANEL]; 4] {
        bytemuck::cast_ref(&self.0)
    }

    /// Puts a row's word in.
    pub fn put(&mut self, row: usize, word: u32, order: Order) {
        let bytes = word.to_le_bytes();
        match order {
            Order::Words => self.0[row] = word,
            Order::Halves => {
                let halves: &mut [[u16; PANEL]; 2] = bytemuck::cast_mut(&mut self.0);
                for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
                    half[row] = u16::from_le_bytes(*bytes);
                }
            }
            Order::Bytes => {
                let of_rows: &mut [[u8; PANEL]; 4] = bytemuck::cast_mut(&mut self.0);
                of_rows.iter_mut().zip(bytes).for_each(|(of_rows, byte)| of_rows[row] = byte);
            }
        }
    }
}

/// What of the rows' words lies side by side.
#[derive(Debug, Clone, Copy)]
pub enum Order {
    Words,
    Halves,
    Bytes,
}

impl Columns<f32> {
    /// The numbers of all rows.
    pub fn numbers(&self) -> &[f32] {
        bytemuck::cast_slice(&self.0)
    }

    /// The numbers of all rows, to be changed.
    pub fn numbers_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// A dtype of packed weights.
pub trait Stored: WithDType {
    /// How many columns a step along a panel takes.
    const WIDTH: usize;

    /// Sets a row's numbers, one for each column.
    fn set(columns: &mut Columns<Self>, row: usize, numbers: &[Self]);

    /// A row's number in the first or the second column.
    fn get(columns: &Columns<Self>, row: usize, column: usize) -> Self;

    /// The `at`-th vector of the first or the second column, as f32, which is exact.
    fn load<S: Simd>(simd: S, columns: &Columns<Self>, at: usize, column: usize) -> S::f32s;
}

/// One column a step: with two, a compiler for 16 registers moves the sums to memory, which costs a
/// third of the speed.
impl Stored for f32 {
    const WIDTH: usize = 1;

    #[inline(always)]
    fn set(columns: &mut Columns<f32>, row: usize, numbers: &[f32]) {
        columns.0[row] = numbers[0].to_bits();
    }

    fn get(columns: &Columns<f32>, row: usize, _column: usize) -> f32 {
        f32::from_bits(columns.0[row])
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, columns: &Columns<f32>, at: usize, _column: usize) -> S::f32s {
        simd.transmute_f32s_u32s(S::as_simd_u32s(&columns.0).0[at])
    }
}

impl Stored for bf16 {
    const WIDTH: usize = 2;

    #[inline(always)]
    fn set(columns: &mut Columns<bf16>, row: usize, numbers: &[bf16]) {
        columns.0[row] = pair(numbers[0].to_bits(), numbers[1].to_bits());
    }

    fn get(columns: &Columns<bf16>, row: usize, column: usize) -> bf16 {
        bf16::from_bits(one_of(columns.0[row], column))
    }

    /// A bf16 is the upper half of the f32.
    #[inline(always)]
    fn load<S: Simd>(simd: S, columns: &Columns<bf16>, at: usize, column: usize) -> S::f32s {
        let pairs = S::as_simd_u32s(&columns.0).0[at];
        simd.transmute_f32s_u32s(match column == 1 {
            true => simd.and_u32s(pairs, simd.splat_u32s(0xffff_0000)),
            false => simd.wrapping_dyn_shl_u32s(pairs, simd.splat_u32s(16)),
        })
    }
}

impl Stored for f16 {
    const WIDTH: usize = 2;

    #[inline(always)]
    fn set(columns: &mut Columns<f16>, row: usize, numbers: &[f16]) {
        columns.0[row] = pair(numbers[0].to_bits(), numbers[1].to_bits());
    }

    fn get(columns: &Columns<f16>, row: usize, column: usize) -> f16 {
        f16::from_bits(one_of(columns.0[row], column))
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, columns: &Columns<f16>, at: usize, column: usize) -> S::f32s {
        let pairs = S::as_simd_u32s(&columns.0).0[at];
        widen_f16(
            simd,
            match column == 1 {
                true => pairs,
                false => simd.wrapping_dyn_shl_u32s(pairs, simd.splat_u32s(16)),
            },
        )
    }
}

fn pair(first: u16, second: u16) -> u32 {
    u32::from(first) | u32::from(second) << 16
}

fn one_of(pair: u32, column: usize) -> u16 {
    (pair >> (16 * column)) as u16
}

/// The f16 in the upper bits of every lane: its exponent and mantissa, moved to where f32 has
/// them, are off by a power of two, which one multiplication mends exactly, subnormals too; only
/// infinities and NaN need their exponent set.
#[inline(always)]
pub fn widen_f16<S: Simd>(simd: S, upper: S::u32s) -> S::f32s {
    let magnitude = simd.and_u32s(upper, simd.splat_u32s(0x7fff_0000));
    let moved = simd.wrapping_dyn_shr_u32s(magnitude, simd.splat_u32s(3));
    let scaled = simd.mul_f32s(simd.transmute_f32s_u32s(moved), simd.splat_f32s(2f32.powi(112)));
    let special = simd.greater_than_or_equal_f32s(scaled, simd.splat_f32s(2f32.powi(16)));
    let exponent = simd.select_u32s(special, simd.splat_u32s(0x7f80_0000), simd.splat_u32s(0));
    let sign = simd.and_u32s(upper, simd.splat_u32s(0x8000_0000));
    let bits = simd.or_u32s(simd.transmute_u32s_f32s(scaled), simd.or_u32s(exponent, sign));
    simd.transmute_f32s_u32s(bits)
}
