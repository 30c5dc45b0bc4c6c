//! What the codes of a quantised weight are, and which numbers they stand for before scales.

use float8::F8E4M3;
use std::fmt;

/// How the codes of a quantised weight are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Codes {
    /// Floats of 8 bits, E4M3 without infinities.
    Fp8,
    /// Integers of a byte, from −128.
    Int8,
    /// Integers of so many bits, at most 8, from −2^(bits − 1), which is stored as 0: one behind the other from a row's
    /// lowest bit on.
    Packed(u8),
}

/// The floats of 8 bits by their codes.
static FP8: [f32; 256] = {
    let mut all = [0.0; 256];
    let mut code = 0;
    while code < all.len() {
        all[code] = F8E4M3::from_bits(code as u8).to_f32();
        code += 1;
    }
    all
};

impl Codes {
    /// Bits of each.
    pub fn bits(self) -> usize {
        match self {
            Self::Fp8 | Self::Int8 => 8,
            Self::Packed(bits) => bits.into(),
        }
    }

    /// What the codes at the beginning of a row stand for, as many as there is room for.
    pub(super) fn decode(self, row: &[u8], numbers: &mut [f32]) {
        match self {
            Self::Fp8 => {
                let all = numbers.iter_mut().zip(row);
                all.for_each(|(number, &code)| *number = FP8[usize::from(code)]);
            }
            Self::Int8 => {
                let all = numbers.iter_mut().zip(row);
                all.for_each(|(number, &code)| *number = f32::from(code.cast_signed()));
            }
            Self::Packed(bits) => {
                let (bits, mask) = (usize::from(bits), (1u16 << bits) - 1);
                let lowest = f32::from(1u8 << (bits - 1));
                for (i, number) in numbers.iter_mut().enumerate() {
                    let (byte, shift) = (i * bits / 8, i * bits % 8);
                    let next = row.get(byte + 1).copied().unwrap_or(0);
                    let code = (u16::from_le_bytes([row[byte], next]) >> shift) & mask;
                    *number = f32::from(code) - lowest;
                }
            }
        }
    }
}

/// As the field calls them: `FP8_E4M3`, `INT4`.
impl fmt::Display for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fp8 => f.write_str("FP8_E4M3"),
            Self::Int8 => f.write_str("INT8"),
            Self::Packed(bits) => write!(f, "INT{bits}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(codes: Codes, row: &[u8], count: usize) -> Vec<f32> {
        let mut numbers = vec![f32::NAN; count];
        codes.decode(row, &mut numbers);
        numbers
    }

    #[test]
    fn packed_codes_begin_at_the_lowest_bit() {
        assert_eq!(decoded(Codes::Packed(4), &[0x80, 0x9f], 4), [-8.0, 0.0, 7.0, 1.0]);
        assert_eq!(decoded(Codes::Packed(2), &[0b11_10_01_00], 4), [-2.0, -1.0, 0.0, 1.0]);
        // 3 bits each, of which the third lies in two bytes: 7, 0, 5, and what fills up.
        assert_eq!(decoded(Codes::Packed(3), &[0b01_000_111, 0b1], 3), [3.0, -4.0, 1.0]);
        assert_eq!(decoded(Codes::Packed(8), &[0, 255], 2), [-128.0, 127.0]);
        assert_eq!(decoded(Codes::Int8, &[0, 255, 128], 3), [0.0, -1.0, -128.0]);
        assert_eq!(
            decoded(Codes::Fp8, &[0x7e, 0xfe, 0x01, 0x38], 4),
            [448.0, -448.0, 0.001953125, 1.0]
        );
        assert!(decoded(Codes::Fp8, &[0x7f, 0xff], 2).iter().all(|x| x.is_nan()));
    }
}
