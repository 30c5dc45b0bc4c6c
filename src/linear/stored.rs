//! The dtypes that packed weights are stored in, and how a vector of them becomes f32.

use candle_core::WithDType;
use half::{bf16, f16};
use pulp::{Simd, bytemuck};

/// Rows of the weight, which are columns of the product, that are packed together.
pub const PANEL: usize = 32;

/// What two neighbouring columns of a panel hold, on a cache line's boundary: f32 as 32 numbers of
/// the one and 32 of the other; half types as 32 pairs, the first column's number in the low bits,
/// so that one load gives both.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Columns<const N: usize>([u32; N]);

impl Columns<PANEL> {
    /// The pairs of all rows.
    #[cfg(target_arch = "x86_64")]
    pub fn pairs(&self) -> [u32; PANEL] {
        self.0
    }
}

impl Columns<{ 2 * PANEL }> {
    /// The first or the second column's numbers.
    pub fn column_mut(&mut self, second: bool) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.0[if second { PANEL } else { 0 }..][..PANEL])
    }
}

/// A dtype of packed weights.
pub trait Stored: WithDType {
    /// Two columns of a panel.
    type Columns: Copy + Send + Sync + std::fmt::Debug;

    /// Two columns of zeros.
    const ZEROS: Self::Columns;

    /// Sets the numbers of a row in both columns.
    fn set(columns: &mut Self::Columns, row: usize, both: [Self; 2]);

    /// The number of a row in the first or the second column.
    fn get(columns: &Self::Columns, row: usize, second: bool) -> Self;

    /// The `at`-th vector of the first or the second column, as f32, which is exact.
    fn load<S: Simd>(simd: S, columns: &Self::Columns, at: usize, second: bool) -> S::f32s;
}

impl Stored for f32 {
    type Columns = Columns<{ 2 * PANEL }>;

    const ZEROS: Self::Columns = Columns([0; 2 * PANEL]);

    #[inline(always)]
    fn set(columns: &mut Self::Columns, row: usize, [first, second]: [f32; 2]) {
        columns.0[row] = first.to_bits();
        columns.0[row + PANEL] = second.to_bits();
    }

    fn get(columns: &Self::Columns, row: usize, second: bool) -> f32 {
        f32::from_bits(columns.0[row + if second { PANEL } else { 0 }])
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, columns: &Self::Columns, at: usize, second: bool) -> S::f32s {
        let start = if second { PANEL / S::F32_LANES } else { 0 };
        simd.transmute_f32s_u32s(S::as_simd_u32s(&columns.0).0[start + at])
    }
}

impl Stored for bf16 {
    type Columns = Columns<PANEL>;

    const ZEROS: Self::Columns = Columns([0; PANEL]);

    #[inline(always)]
    fn set(columns: &mut Self::Columns, row: usize, [first, second]: [bf16; 2]) {
        columns.0[row] = pair(first.to_bits(), second.to_bits());
    }

    fn get(columns: &Self::Columns, row: usize, second: bool) -> bf16 {
        bf16::from_bits(half_of(columns.0[row], second))
    }

    /// A bf16 is the upper half of the f32.
    #[inline(always)]
    fn load<S: Simd>(simd: S, columns: &Self::Columns, at: usize, second: bool) -> S::f32s {
        let pairs = S::as_simd_u32s(&columns.0).0[at];
        simd.transmute_f32s_u32s(match second {
            true => simd.and_u32s(pairs, simd.splat_u32s(0xffff_0000)),
            false => simd.wrapping_dyn_shl_u32s(pairs, simd.splat_u32s(16)),
        })
    }
}

impl Stored for f16 {
    type Columns = Columns<PANEL>;

    const ZEROS: Self::Columns = Columns([0; PANEL]);

    #[inline(always)]
    fn set(columns: &mut Self::Columns, row: usize, [first, second]: [f16; 2]) {
        columns.0[row] = pair(first.to_bits(), second.to_bits());
    }

    fn get(columns: &Self::Columns, row: usize, second: bool) -> f16 {
        f16::from_bits(half_of(columns.0[row], second))
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, columns: &Self::Columns, at: usize, second: bool) -> S::f32s {
        let pairs = S::as_simd_u32s(&columns.0).0[at];
        widen_f16(
            simd,
            match second {
                true => pairs,
                false => simd.wrapping_dyn_shl_u32s(pairs, simd.splat_u32s(16)),
            },
        )
    }
}

fn pair(first: u16, second: u16) -> u32 {
    u32::from(first) | u32::from(second) << 16
}

fn half_of(pair: u32, second: bool) -> u16 {
    (pair >> if second { 16 } else { 0 }) as u16
}

/// The f16 in the upper bits of every lane: its exponent and mantissa, moved to where f32 has
/// them, are off by a power of two, which one multiplication mends exactly, subnormals too; only
/// infinities and NaN need their exponent set.
#[inline(always)]
fn widen_f16<S: Simd>(simd: S, upper: S::u32s) -> S::f32s {
    let magnitude = simd.and_u32s(upper, simd.splat_u32s(0x7fff_0000));
    let moved = simd.wrapping_dyn_shr_u32s(magnitude, simd.splat_u32s(3));
    let scaled = simd.mul_f32s(simd.transmute_f32s_u32s(moved), simd.splat_f32s(2f32.powi(112)));
    let special = simd.greater_than_or_equal_u32s(magnitude, simd.splat_u32s(0x7c00_0000));
    let exponent = simd.select_u32s(special, simd.splat_u32s(0x7f80_0000), simd.splat_u32s(0));
    let sign = simd.and_u32s(upper, simd.splat_u32s(0x8000_0000));
    let bits = simd.or_u32s(simd.transmute_u32s_f32s(scaled), simd.or_u32s(exponent, sign));
    simd.transmute_f32s_u32s(bits)
}
