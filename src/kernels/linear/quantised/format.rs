//! Types of quantised blocks, and how their numbers come out of panels.
//!
//! In a file a block holds numbers of one row that share scales. In a panel, 32 rows side by side, a word of a row has
//! what several of its columns need, so that vectors of rows are made of vectors of words by shifts and masks alone. Codes
//! become f32 as the lowest bits of a larger number's mantissa, from which that number is subtracted: both steps are exact.

use super::super::stored::{Columns, widen_f16};
use candle_core::quantized::GgmlDType;
use pulp::Simd;

/// Columns whose codes a word has 4 bits of.
pub const OCTET: usize = 8;

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
        [widen_f16(self.simd, shl(self.simd, bits, 16)), widen_f16(self.simd, bits)]
    }

    /// A byte of a word as a number, less that of 0.
    #[inline(always)]
    pub fn byte(self, word: usize, byte: usize, zero: f32) -> S::f32s {
        let bits = shr(self.simd, self.get(word), 8 * byte as u32);
        field(self.simd, bits, None, 0, 8, zero)
    }
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
        let mut above = [[simd.splat_u32s(0); V]; 2];
        for v in 0..V {
            let words = vector(v);
            (scale[v], addend[v]) = F::scale(simd, halves[v], words, run);
            if matches!(F::BITS, 5 | 6) {
                // What is above 4 bits, to where it belongs for the first columns; later ones are beside it.
                let bits = words.get(F::SCALES + F::GROUP / OCTET + run);
                above[0][v] = shl(simd, bits, 4);
                above[1][v] = shr(simd, bits, 12);
            }
        }
        for at in 0..F::SHARED / OCTET {
            let octet_of_group = run * (F::SHARED / OCTET) + at;
            octet(octet_of_group);
            for half in 0..2 {
                let mut low = [simd.splat_u32s(0); V];
                let mut high = [simd.splat_u32s(0); V];
                for v in 0..V {
                    let words = vector(v);
                    if F::BITS == 8 {
                        low[v] = words.get(F::SCALES + 2 * octet_of_group + half);
                        high[v] = shr(simd, low[v], 16);
                    } else {
                        let word = words.get(F::SCALES + octet_of_group);
                        low[v] = if half == 0 { word } else { shr(simd, word, 16) };
                        high[v] = above[half][v];
                    }
                }
                for column in 0..4 {
                    let mut all = [nothing; V];
                    for v in 0..V {
                        let code = match F::BITS {
                            8 => {
                                let bits = if column < 2 { low[v] } else { high[v] };
                                field(simd, bits, None, 8 * (column as u32 % 2), 8, F::ZERO)
                            }
                            4 => field(simd, low[v], None, 4 * column as u32, 4, F::ZERO),
                            bits => {
                                let above = Some((high[v], bits as u32 - 4));
                                field(simd, low[v], above, 4 * column as u32, 4, F::ZERO)
                            }
                        };
                        all[v] = match addend[v] {
                            Some(addend) => simd.mul_add_e_f32s(code, scale[v], addend),
                            None => simd.mul_f32s(code, scale[v]),
                        };
                    }
                    each(octet_of_group * OCTET + half * 4 + column, all);
                }
                if matches!(F::BITS, 5 | 6) {
                    for v in 0..V {
                        above[half][v] = shr(simd, above[half][v], F::BITS as u32 - 4);
                    }
                }
            }
        }
    }
}

/// Some bits from a place on, and perhaps bits of another vector that lie behind them, as a number, less that of 0.
#[inline(always)]
fn field<S: Simd>(
    simd: S,
    bits: S::u32s,
    above: Option<(S::u32s, u32)>,
    place: u32,
    width: u32,
    zero: f32,
) -> S::f32s {
    let mask = |place: u32, width: u32| simd.splat_u32s(((1 << width) - 1) << place);
    // A number whose mantissa has 1 there.
    let unit = (127 + 23 - place) << 23;
    let mut number = simd.or_u32s(simd.and_u32s(bits, mask(place, width)), simd.splat_u32s(unit));
    if let Some((above, more)) = above {
        number = simd.or_u32s(simd.and_u32s(above, mask(place + width, more)), number);
    }
    let zero = simd.splat_f32s(f32::from_bits(unit) + zero);
    simd.sub_f32s(simd.transmute_f32s_u32s(number), zero)
}

#[inline(always)]
fn shl<S: Simd>(simd: S, bits: S::u32s, by: u32) -> S::u32s {
    simd.wrapping_dyn_shl_u32s(bits, simd.splat_u32s(by))
}

#[inline(always)]
fn shr<S: Simd>(simd: S, bits: S::u32s, by: u32) -> S::u32s {
    simd.wrapping_dyn_shr_u32s(bits, simd.splat_u32s(by))
}

/// Puts the codes of a group's columns into its words behind those of the scales.
pub fn put_codes<F: Format>(codes: &[u8], words: &mut [u32]) {
    let (low, high) = words.split_at_mut(F::GROUP * F::BITS.min(4) / 32);
    for (column, &code) in codes.iter().enumerate() {
        let (octet, half, place) = (column / OCTET, column / 4 % 2, column % 4);
        if F::BITS == 8 {
            // Of these as many words again lie in `high`.
            let word = 2 * octet + half;
            let bits = u32::from(code) << (8 * place);
            match word.checked_sub(low.len()) {
                None => low[word] |= bits,
                Some(word) => high[word] |= bits,
            }
            continue;
        }
        low[octet] |= u32::from(code & 15) << (16 * half + 4 * place);
        if F::BITS > 4 {
            let (run, octet) = (column / F::SHARED, octet % (F::SHARED / OCTET));
            let place = 16 * half + 4 * place + (F::BITS - 4) * octet;
            high[run] |= u32::from(code >> 4) << place;
        }
    }
}
