//! Types of quantised blocks, and how their numbers come out of panels.
//!
//! In a file a block holds numbers of one row that share scales. In a panel, 32 rows side by side, a word of a row has
//! what several of its columns need, so that vectors of rows are made of vectors of words by shifts and masks alone: first
//! a word with a code of each of four columns in its four bytes, then a number out of each byte. Codes whose zero lies in
//! their middle are there less that zero, as signed integers at the bytes' tops. Every step is exact.

use super::super::stored::{Columns, widen_f16};
use candle_core::quantized::GgmlDType;
use pulp::Simd;

/// Columns whose codes a word has 4 bits of.
pub const OCTET: usize = 8;

/// Columns whose codes a word has in its bytes, once they are put together.
const QUAD: usize = 4;

/// A type of blocks. Its columns come in groups of one or two blocks, of which a panel has words of scales first, then the
/// codes' lower bits, then what is above the lowest 4.
pub trait Format {
    /// candle's name for it.
    const KIND: GgmlDType;
    /// Columns of a block.
    const BLOCK: usize;
    /// Blocks in a group.
    const BLOCKS: usize = 1;
    /// Words of scales in a group.
    const SCALES: usize;
    /// Bits of a code: 4, 5, 6 or 8.
    const BITS: usize;
    /// Columns that share a scale: 32, or 16 where codes have 6 bits.
    const SHARED: usize = 32;
    /// The code of 0.
    const ZERO: f32;

    /// Bits that a code takes from the top of a byte: all, unless it is signed.
    const FIELD: u32 = if Self::ZERO > 0.0 { Self::BITS as u32 } else { 8 };
    /// Columns in a group.
    const GROUP: usize = Self::BLOCK * Self::BLOCKS;
    /// Words of a row's group.
    const WORDS: usize = Self::SCALES + Self::GROUP * Self::BITS / 32;

    /// Takes the `at`-th block of a group, as it is in a file, apart: its scales into words that were 0, its codes one by
    /// one.
    fn split(at: usize, block: &[u8], scales: &mut [u32], codes: &mut [u8]);

    /// By what the codes of a run of columns are multiplied, and what is added. `halves` are the two of the first word.
    fn scale<S: Simd>(
        simd: S,
        halves: [S::f32s; 2],
        words: Words<S>,
        run: usize,
    ) -> (S::f32s, Option<S::f32s>);
}

/// A vector of each of a group's words.
#[derive(Clone, Copy)]
pub struct Words<'a, S> {
    simd: S,
    group: &'a [Columns<u32>],
    at: usize,
}

impl<'a, S: Simd> Words<'a, S> {
    /// The `at`-th vectors.
    #[inline(always)]
    pub fn new(simd: S, group: &'a [Columns<u32>], at: usize) -> Self {
        Self { simd, group, at }
    }

    #[inline(always)]
    fn get(self, word: usize) -> S::u32s {
        S::as_simd_u32s(self.group[word].words()).0[self.at]
    }

    /// The first word as two f16, the lower half first.
    #[inline(always)]
    fn halves(self) -> [S::f32s; 2] {
        let bits = self.get(0);
        [widen_f16(self.simd, shift(self.simd, bits, 16)), widen_f16(self.simd, bits)]
    }

    /// A byte of a word as a number, less that of 0.
    #[inline(always)]
    pub fn byte(self, word: usize, byte: usize, zero: u8) -> S::f32s {
        let bits = shift(self.simd, self.get(word), -8 * byte as i32);
        in_mantissa(self.simd, bits, 0, 0, zero)
    }

    /// The codes of half an octet's columns, one in each byte. `above` has what is above 4 bits of all of a run's, whose
    /// `at`-th octet this is.
    #[inline(always)]
    fn quad<F: Format>(
        self,
        octet: usize,
        half: usize,
        above: Option<S::u32s>,
        at: usize,
    ) -> S::u32s {
        let simd = self.simd;
        if F::BITS == 8 {
            return self.get(F::SCALES + 2 * octet + half);
        }
        // Where in a byte the lowest bit goes.
        let place = 8 - F::FIELD as i32;
        let word = self.get(F::SCALES + octet);
        let low = simd.and_u32s(shift(simd, word, place - 4 * half as i32), mask(simd, 4, place));
        let Some(above) = above else { return low };
        let (more, place) = (F::BITS - 4, place + 4);
        let above = shift(simd, above, place - (more * (2 * at + half)) as i32);
        simd.or_u32s(simd.and_u32s(above, mask(simd, more, place)), low)
    }
}

/// What to multiply [`code`] by to have the code.
#[inline(always)]
fn unit<F: Format, S: Simd>(simd: S) -> f32 {
    match v3(simd) {
        Some(_) => 1.0 / (1u64 << (32 - F::FIELD)) as f32,
        None => 1.0 / (1u64 << (8 - F::FIELD)) as f32,
    }
}

/// The code of a column out of its quad, as a multiple of [`unit`]: the byte at a word's top as an integer, where
/// converting one takes an instruction; otherwise the byte as the lowest bits of a larger number's mantissa, less that
/// number.
#[inline(always)]
fn code<F: Format, S: Simd>(simd: S, quad: S::u32s, column: usize) -> S::f32s {
    #[cfg(target_arch = "x86_64")]
    if let Some(v3) = v3(simd) {
        let top = shift(simd, quad, 24 - 8 * column as i32);
        let top = match column {
            0 => top,
            _ => simd.and_u32s(top, simd.splat_u32s(0xff << 24)),
        };
        return pulp::bytemuck::cast(v3.convert_i32x8_to_f32x8(pulp::bytemuck::cast(top)));
    }
    // Two are far enough from a mantissa's top.
    let bits = if column < 2 { quad } else { shift(simd, quad, -16) };
    let sign = if F::ZERO > 0.0 { 0x80 } else { 0 };
    in_mantissa(simd, bits, 8 * (column as u32 % 2), sign, sign)
}

/// The proof that the machine has AVX2, if these are its vectors.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn v3<S: Simd>(simd: S) -> Option<pulp::x86::V3> {
    (&simd as &dyn std::any::Any).downcast_ref().copied()
}

/// There is none elsewhere.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn v3<S: Simd>(_: S) -> Option<()> {
    None
}

/// Calls `each` with every column of a group and its numbers in `V` vectors from the `at`-th on, and `octet` with the number
/// of every 8 columns before these. Its loops go by index, as those of the other kernels do.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
pub fn numbers<F: Format, S: Simd, const V: usize>(
    simd: S,
    group: &[Columns<u32>],
    at: usize,
    octet: impl Fn(usize),
    mut each: impl FnMut(usize, [S::f32s; V]),
) {
    let group = &group[..F::WORDS];
    let vector = |v: usize| Words::new(simd, group, at + v);
    let nothing = simd.splat_f32s(0.0);
    let mut halves = [[nothing; 2]; V];
    for v in 0..V {
        halves[v] = vector(v).halves();
    }
    for run in 0..F::GROUP / F::SHARED {
        let (mut scale, mut addend) = ([nothing; V], [None; V]);
        let mut above = [None; V];
        for v in 0..V {
            let words = vector(v);
            (scale[v], addend[v]) = F::scale(simd, halves[v], words, run);
            scale[v] = simd.mul_f32s(scale[v], simd.splat_f32s(unit::<F, S>(simd)));
            if matches!(F::BITS, 5 | 6) {
                above[v] = Some(words.get(F::SCALES + F::GROUP / OCTET + run));
            }
        }
        for at in 0..F::SHARED / OCTET {
            let octet_of_group = run * (F::SHARED / OCTET) + at;
            octet(octet_of_group);
            for half in 0..2 {
                let mut quad = [simd.splat_u32s(0); V];
                for v in 0..V {
                    quad[v] = vector(v).quad::<F>(octet_of_group, half, above[v], at);
                }
                for column in 0..QUAD {
                    let mut all = [nothing; V];
                    for v in 0..V {
                        let code = code::<F, S>(simd, quad[v], column);
                        all[v] = match addend[v] {
                            Some(addend) => simd.mul_add_e_f32s(code, scale[v], addend),
                            None => simd.mul_f32s(code, scale[v]),
                        };
                    }
                    each(octet_of_group * OCTET + half * QUAD + column, all);
                }
            }
        }
    }
}

/// A byte from a place on, some of whose bits are turned over, as a number, less that of 0.
#[inline(always)]
fn in_mantissa<S: Simd>(simd: S, bits: S::u32s, place: u32, turned: u8, zero: u8) -> S::f32s {
    // A number whose mantissa has 1 there.
    let unit = (127 + 23 - place) << 23;
    let byte = simd.and_u32s(bits, simd.splat_u32s(0xff << place));
    let number = simd.xor_u32s(byte, simd.splat_u32s(unit | u32::from(turned) << place));
    let zero = simd.splat_f32s(f32::from_bits(unit) + f32::from(zero));
    simd.sub_f32s(simd.transmute_f32s_u32s(number), zero)
}

/// Some bits of every byte from a place on.
#[inline(always)]
fn mask<S: Simd>(simd: S, bits: usize, place: i32) -> S::u32s {
    simd.splat_u32s(0x0101_0101 * (((1 << bits) - 1) << place))
}

/// Bits moved up, or down if it is negative.
#[inline(always)]
fn shift<S: Simd>(simd: S, bits: S::u32s, by: i32) -> S::u32s {
    let places = simd.splat_u32s(by.unsigned_abs());
    match by {
        0 => bits,
        1.. => simd.wrapping_dyn_shl_u32s(bits, places),
        _ => simd.wrapping_dyn_shr_u32s(bits, places),
    }
}

/// Puts the codes of a group's columns into its words behind those of the scales: of 8 bits four to a word; otherwise the
/// lowest 4 bits of two quads of columns, byte by byte, and in words behind these what is above them, quad after quad in every byte.
pub fn put_codes<F: Format>(codes: &[u8], words: &mut [u32]) {
    let (low, high) = words.split_at_mut(F::GROUP * F::BITS.min(4) / 32);
    for (column, &code) in codes.iter().enumerate() {
        let code = code ^ F::ZERO as u8; // what it is less that of 0, in two's complement
        let (quad, byte) = (column / QUAD, column % QUAD);
        if F::BITS == 8 {
            // Of these as many words again lie in `high`.
            let word = match quad.checked_sub(low.len()) {
                None => &mut low[quad],
                Some(quad) => &mut high[quad],
            };
            *word |= u32::from(code) << (8 * byte);
            continue;
        }
        low[quad / 2] |= u32::from(code & 15) << (8 * byte + 4 * (quad % 2));
        if F::BITS > 4 {
            let (run, quad) = (column / F::SHARED, quad % (F::SHARED / QUAD));
            let above = u32::from(code) >> 4 & ((1 << (F::BITS - 4)) - 1);
            high[run] |= above << (8 * byte + (F::BITS - 4) * quad);
        }
    }
}
