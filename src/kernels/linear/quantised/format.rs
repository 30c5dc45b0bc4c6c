//! Types of quantised blocks, and how their numbers come out of panels.
//!
//! In a file a block holds numbers of one row that share scales. In a panel, 32 rows side by side, a word of a row has
//! codes of several columns, so that vectors of rows are made of vectors of words by shifts and masks alone. (Codes of 8 bits
//! lie side by side, byte by byte, and so do scales.) A word's four
//! bytes have a code of one column each, in their lowest bits. What is above these in a run's words is, byte by byte and
//! one word after the other, the codes that are left: of 4 bits one in each gap, of 6 bits one in three, of 5 bits three in
//! five. Every step is exact.

use super::super::stored::{Columns, Order};
use super::widen;
use candle_core::quantized::GgmlDType;
use pulp::Simd;

/// Columns whose codes a word has in its bytes.
pub const QUAD: usize = 4;

/// By what the codes of every eight columns are multiplied when they come: x is divided by it.
pub type Units = [f32; 2 * QUAD];

/// Codes that come as they are.
const ONES: Units = [1.0; 2 * QUAD];

/// Codes that are not moved: in which byte they are is left to x.
pub const BYTES: Units = {
    let [a, b, c, d] = [1.0, 256.0, 65536.0, 16777216.0];
    [a, b, c, d, a, b, c, d]
};

/// Codes of 4 bits, every other four of which are in the gaps. The word's highest bits alone are moved, which would be a
/// sign.
pub const NIBBLES: Units = [1.0, 256.0, 65536.0, 16777216.0, 16.0, 4096.0, 1048576.0, 1.0];

/// A type of blocks. Its columns come in groups of one or two blocks, of which a panel has words of scales first, then those
/// of codes.
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

    /// Whether codes are kept less that of 0, as signed bytes.
    const SIGNED: bool = Self::BITS == 8;
    /// What is taken off the codes as they are kept.
    const OFFSET: f32 = if Self::SIGNED { 0.0 } else { Self::ZERO };
    /// In which units its codes come.
    const UNITS: Units = match Self::BITS {
        4 => NIBBLES,
        _ if Self::SIGNED => ONES,
        _ => BYTES,
    };
    /// Columns in a group.
    const GROUP: usize = Self::BLOCK * Self::BLOCKS;
    /// Words of a row's group.
    const WORDS: usize = Self::SCALES + Self::GROUP * Self::BITS / 32;
    /// Words of a run's codes.
    const OF_RUN: usize = Self::SHARED * Self::BITS / 32;
    /// Bits of a byte above a code.
    const GAP: usize = 8 - Self::BITS;

    /// Takes the `at`-th block of a group, as it is in a file, apart: its scales into words that were 0, its codes one by
    /// one.
    fn split(at: usize, block: &[u8], scales: &mut [u32], codes: &mut [u8]);

    /// How a word lies in a panel: scales of 16 and 8 bits and codes of 8 side by side, as vectors take them.
    fn order(word: usize) -> Order {
        match word {
            0 => Order::Halves,
            _ if word < Self::SCALES || Self::SIGNED => Order::Bytes,
            _ => Order::Words,
        }
    }

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
    /// So many vectors further.
    #[inline(always)]
    fn behind(self, vectors: usize) -> Self {
        Self { at: self.at + vectors, ..self }
    }

    #[inline(always)]
    fn get(self, word: usize) -> S::u32s {
        S::as_simd_u32s(self.group[word].words()).0[self.at]
    }

    /// The first word as two f16, the lower half first.
    #[inline(always)]
    fn halves(self) -> [S::f32s; 2] {
        let [lower, upper] = self.group[0].halves();
        let first = self.at * S::F32_LANES;
        [widen::halves(self.simd, &lower[first..]), widen::halves(self.simd, &upper[first..])]
    }

    /// A signed byte of a word as a number.
    #[inline(always)]
    pub fn byte(self, word: usize, byte: usize) -> S::f32s {
        let bytes = &self.group[word].bytes()[byte];
        widen::bytes(self.simd, &bytes[self.at * S::F32_LANES..])
    }

    /// The codes of a quad of a run's columns, one in each byte: from [`first_bit`] on. Only if they were in several words
    /// are a byte's other bits 0.
    #[inline(always)]
    fn quad<F: Format>(self, run: usize, quad: usize) -> S::u32s {
        let simd = self.simd;
        let (first, quad) = (F::SCALES + run * F::OF_RUN, place::<F>(quad));
        if quad < F::OF_RUN {
            return self.get(first + quad);
        }
        if F::BITS == F::GAP {
            return self.get(first + quad - F::OF_RUN);
        }
        let mut codes = simd.splat_u32s(0);
        let mut bit = 0; // of the codes
        for _ in 0..3 {
            if bit < F::BITS {
                let (word, at) = gap::<F>(quad, bit);
                let len = (F::GAP - at).min(F::BITS - bit);
                let bits = shift(simd, self.get(first + word), bit as i32 - (F::BITS + at) as i32);
                codes = simd.or_u32s(codes, simd.and_u32s(bits, mask(simd, len, bit as i32)));
                bit += len;
            }
        }
        codes
    }
}

/// Where the codes of a quad of a run's columns are: of 4 bits they take turns in a word and in its gaps; otherwise words come
/// first, so that columns are seen in their order.
#[inline(always)]
fn place<F: Format>(quad: usize) -> usize {
    match F::BITS {
        4 => quad / 2 + quad % 2 * F::OF_RUN,
        _ => quad,
    }
}

/// Which of a run's words has a bit of the codes of a quad that has no word of its own, and where in the gap.
#[inline(always)]
fn gap<F: Format>(quad: usize, bit: usize) -> (usize, usize) {
    let bit = (quad - F::OF_RUN) * F::BITS + bit;
    (bit / F::GAP, bit % F::GAP)
}

/// The bit of a byte from which on a quad has its code: gaps of 4 bits are read where they are.
#[inline(always)]
fn first_bit<F: Format>(quad: usize) -> usize {
    if F::BITS == F::GAP && place::<F>(quad) >= F::OF_RUN { F::BITS } else { 0 }
}

/// The code of a column out of its quad, times its [unit](Format::UNITS): the bits as an integer, where converting one takes
/// an instruction; otherwise as the lowest bits of a larger number's mantissa, less that number.
#[inline(always)]
fn code<F: Format, S: Simd>(simd: S, quad: S::u32s, first_bit: usize, column: usize) -> S::f32s {
    let place = 8 * column + first_bit;
    if integers::<S>() {
        let bits = match place + F::BITS {
            32 => shift(simd, quad, -(place as i32)),
            _ => simd.and_u32s(quad, simd.splat_u32s(((1 << F::BITS) - 1) << place)),
        };
        return convert(simd, bits);
    }
    let quad = simd.and_u32s(shift(simd, quad, -(first_bit as i32)), mask(simd, F::BITS, 0));
    // Two are far enough from a mantissa's top.
    let (bits, place) = match column {
        0 | 1 => (quad, 8 * column),
        _ => (shift(simd, quad, -16), 8 * column - 16),
    };
    let unit = F::UNITS[column + if first_bit == 0 { 0 } else { QUAD }];
    in_mantissa(simd, bits, place as u32, unit)
}

/// Whether we have instructions for vectors of integers.
#[inline(always)]
fn integers<S: Simd>() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        use pulp::x86::{V3, V4};
        use std::any::TypeId;
        [TypeId::of::<V3>(), TypeId::of::<V4>()].contains(&TypeId::of::<S>())
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// One of two expressions, by which of AVX2's and AVX-512's instructions vectors have.
macro_rules! with_integers {
    ($simd:ident, $v3:ident => $with_v3:expr, $v4:ident => $with_v4:expr) => {{
        #[cfg(target_arch = "x86_64")]
        {
            let any: &dyn std::any::Any = &$simd;
            if let Some($v3) = any.downcast_ref::<pulp::x86::V3>() {
                return pulp::bytemuck::cast($with_v3);
            }
            if let Some($v4) = any.downcast_ref::<pulp::x86::V4>() {
                return pulp::bytemuck::cast($with_v4);
            }
        }
        unreachable!("`integers` says where")
    }};
}

/// Signed integers as f32.
#[inline(always)]
fn convert<S: Simd>(simd: S, integers: S::u32s) -> S::f32s {
    use pulp::bytemuck::cast;
    with_integers!(
        simd,
        v3 => v3.convert_i32x8_to_f32x8(cast(integers)),
        v4 => v4.convert_i32x16_to_f32x16(cast(integers))
    )
}

/// What takes the codes of a group's columns, in `V` vectors.
pub trait Visit<S: Simd, const V: usize> {
    /// The number of every word, before its columns.
    #[inline(always)]
    fn word(&mut self, _word: usize) {}

    /// A column and its codes, times their [unit](Format::UNITS).
    fn code(&mut self, column: usize, v: usize, code: S::f32s);

    /// A run, behind its columns: by what their codes are to be multiplied, once [`Format::OFFSET`] is taken off, and what is
    /// to be added.
    fn run(&mut self, run: usize, scale: [S::f32s; V], addend: [Option<S::f32s>; V]);
}

/// Shows a group's codes in `V` vectors from the `at`-th on. Its loops go by index, as those of the other kernels do.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
pub fn visit<F: Format, S: Simd, const V: usize>(
    simd: S,
    group: &[Columns<u32>],
    at: usize,
    visitor: &mut impl Visit<S, V>,
) {
    let words = Words { simd, group: &group[..F::WORDS], at };
    (0..F::SCALES).for_each(|word| visitor.word(word));
    let nothing = simd.splat_f32s(0.0);
    let mut halves = [[nothing; 2]; V];
    for v in 0..V {
        halves[v] = words.behind(v).halves();
    }
    for run in 0..F::GROUP / F::SHARED {
        for word in 0..F::OF_RUN {
            visitor.word(F::SCALES + run * F::OF_RUN + word);
            match F::BITS {
                4 => {
                    quad::<F, S, V>(words, run, 2 * word, visitor);
                    quad::<F, S, V>(words, run, 2 * word + 1, visitor);
                }
                _ => quad::<F, S, V>(words, run, word, visitor),
            }
        }
        macro_rules! rest {
            ($($at:literal)*) => {
                $(if F::BITS > 4 && F::OF_RUN + $at < F::SHARED / QUAD {
                    quad::<F, S, V>(words, run, F::OF_RUN + $at, visitor);
                })*
            };
        }
        // A loop would not know where their bits are.
        rest!(0 1 2);
        let (mut scale, mut addend) = ([nothing; V], [None; V]);
        for v in 0..V {
            (scale[v], addend[v]) = F::scale(simd, halves[v], words.behind(v), run);
        }
        visitor.run(run, scale, addend);
    }
}

/// Shows the codes of a quad of a run's columns.
#[inline(always)]
fn quad<F: Format, S: Simd, const V: usize>(
    words: Words<S>,
    run: usize,
    quad: usize,
    visitor: &mut impl Visit<S, V>,
) {
    for v in 0..V {
        let words = words.behind(v);
        let first = run * F::SHARED + quad * QUAD;
        if F::SIGNED {
            for byte in 0..QUAD {
                visitor.code(first + byte, v, words.byte(F::SCALES + first / QUAD, byte));
            }
            continue;
        }
        let codes = words.quad::<F>(run, quad);
        for column in 0..QUAD {
            let code = code::<F, S>(words.simd, codes, first_bit::<F>(quad), column);
            visitor.code(first + column, v, code);
        }
    }
}

/// A byte from a place on as a number, times a unit.
#[inline(always)]
fn in_mantissa<S: Simd>(simd: S, bits: S::u32s, place: u32, unit: f32) -> S::f32s {
    // A number whose mantissa has the unit there.
    let large = ((unit.to_bits() >> 23) + 23 - place) << 23;
    let byte = simd.and_u32s(bits, simd.splat_u32s(0xff << place));
    let number = simd.transmute_f32s_u32s(simd.or_u32s(byte, simd.splat_u32s(large)));
    simd.sub_f32s(number, simd.splat_f32s(f32::from_bits(large)))
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

/// Puts the codes of a group's columns into its words behind those of the scales.
pub fn put_codes<F: Format>(codes: &[u8], words: &mut [u32]) {
    for (codes, words) in codes.chunks(F::SHARED).zip(words.chunks_mut(F::OF_RUN)) {
        for (column, &code) in codes.iter().enumerate() {
            let code = if F::SIGNED { code ^ F::ZERO as u8 } else { code }; // in two's complement
            let (quad, byte) = (place::<F>(column / QUAD), column % QUAD);
            if quad < F::OF_RUN {
                words[quad] |= u32::from(code) << (8 * byte);
                continue;
            }
            for bit in 0..F::BITS {
                let (word, at) = gap::<F>(quad, bit);
                words[word] |= u32::from(code >> bit & 1) << (8 * byte + F::BITS + at);
            }
        }
    }
}
