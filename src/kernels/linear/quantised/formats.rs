//! The types of blocks that are kept as they are, as ggml has them (`ggml/src/ggml-common.h`, and
//! `dequantize_row_*` in `ggml/src/ggml-quants.c`).

use super::format::{Format, Words};
use candle_core::quantized::GgmlDType;
use pulp::Simd;

/// Columns that share a scale in most types.
const SMALL: usize = 32;
/// Columns of a block of the K types.
const LARGE: usize = 256;

/// 32 codes of 4 bits: in every byte the one of a column, and of that 16 columns further.
fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    let (first, second) = codes.split_at_mut(SMALL / 2);
    for ((byte, first), second) in bytes.iter().zip(first).zip(second) {
        (*first, *second) = (byte & 15, byte >> 4);
    }
}

/// Their fifth bits, in order.
fn fifth_bits(bytes: &[u8], codes: &mut [u8]) {
    for (column, code) in codes.iter_mut().enumerate() {
        *code |= (bytes[column / 8] >> (column % 8) & 1) << 4;
    }
}

/// Two bytes of a block as the half of a word.
fn half(block: &[u8], at: usize) -> u32 {
    u32::from(u16::from_le_bytes([block[at], block[at + 1]]))
}

macro_rules! small {
    ($(#[$doc:meta])* $name:ident, $bits:literal, zero: $zero:literal, $split:expr) => {
        $(#[$doc])*
        pub struct $name;

        impl Format for $name {
            const KIND: GgmlDType = GgmlDType::$name;
            const BLOCK: usize = SMALL;
            const BLOCKS: usize = 2;
            const SCALES: usize = 1;
            const BITS: usize = $bits;
            const ZERO: f32 = $zero;

            fn split(at: usize, block: &[u8], scales: &mut [u32], codes: &mut [u8]) {
                scales[0] |= half(block, 0) << (16 * at);
                let split: fn(&[u8], &mut [u8]) = $split;
                split(&block[2..], codes);
            }

            #[inline(always)]
            fn scale<S: Simd>(
                _: S,
                [lower, upper]: [S::f32s; 2],
                _: Words<S>,
                run: usize,
            ) -> (S::f32s, Option<S::f32s>) {
                (if run == 0 { lower } else { upper }, None)
            }
        }
    };
    ($(#[$doc:meta])* $name:ident, $bits:literal, min, $split:expr) => {
        $(#[$doc])*
        pub struct $name;

        impl Format for $name {
            const KIND: GgmlDType = GgmlDType::$name;
            const BLOCK: usize = SMALL;
            const SCALES: usize = 1;
            const BITS: usize = $bits;
            const ZERO: f32 = 0.0;

            fn split(_: usize, block: &[u8], scales: &mut [u32], codes: &mut [u8]) {
                scales[0] = half(block, 0) | half(block, 2) << 16;
                let split: fn(&[u8], &mut [u8]) = $split;
                split(&block[4..], codes);
            }

            #[inline(always)]
            fn scale<S: Simd>(
                _: S,
                [d, m]: [S::f32s; 2],
                _: Words<S>,
                _: usize,
            ) -> (S::f32s, Option<S::f32s>) {
                (d, Some(m))
            }
        }
    };
}

small!(
    /// `d·(q - 8)`.
    Q4_0, 4, zero: 8.0, nibbles
);
small!(
    /// `d·q + m`.
    Q4_1, 4, min, nibbles
);
small!(
    /// `d·(q - 16)`.
    Q5_0, 5, zero: 16.0, |bytes, codes| {
        nibbles(&bytes[4..], codes);
        fifth_bits(&bytes[..4], codes);
    }
);
small!(
    /// `d·q + m`.
    Q5_1, 5, min, |bytes, codes| {
        nibbles(&bytes[4..], codes);
        fifth_bits(&bytes[..4], codes);
    }
);
small!(
    /// `d·q`, with q from -128 on.
    Q8_0, 8, zero: 128.0, |bytes, codes| {
        for (code, byte) in codes.iter_mut().zip(bytes) {
            *code = byte ^ 0x80;
        }
    }
);

/// The scales and minima of 8 runs, of 6 bits each, as two bytes.
fn scales_and_minima(bytes: &[u8], words: &mut [u32]) {
    for run in 0..LARGE / SMALL {
        let (scale, min) = match run {
            0..4 => (bytes[run] & 63, bytes[run + 4] & 63),
            _ => (
                bytes[run + 4] & 15 | bytes[run - 4] >> 6 << 4,
                bytes[run + 4] >> 4 | bytes[run] >> 6 << 4,
            ),
        };
        words[run / 2] |= (u32::from(scale) | u32::from(min) << 8) << (16 * (run % 2));
    }
}

/// 256 codes of 4 bits: in every 32 bytes those of 32 columns, and of the 32 behind them.
fn large_nibbles(bytes: &[u8], codes: &mut [u8]) {
    for (bytes, codes) in bytes.chunks_exact(SMALL).zip(codes.chunks_exact_mut(2 * SMALL)) {
        let (first, second) = codes.split_at_mut(SMALL);
        for ((byte, first), second) in bytes.iter().zip(first).zip(second) {
            (*first, *second) = (byte & 15, byte >> 4);
        }
    }
}

macro_rules! large {
    ($(#[$doc:meta])* $name:ident, $kind:ident, $bits:literal, $codes:expr) => {
        $(#[$doc])*
        pub struct $name;

        impl Format for $name {
            const KIND: GgmlDType = GgmlDType::$kind;
            const BLOCK: usize = LARGE;
            const SCALES: usize = 5;
            const BITS: usize = $bits;
            const ZERO: f32 = 0.0;

            fn split(_: usize, block: &[u8], scales: &mut [u32], codes: &mut [u8]) {
                scales[0] = half(block, 0) | half(block, 2) << 16;
                scales_and_minima(&block[4..16], &mut scales[1..]);
                let split: fn(&[u8], &mut [u8]) = $codes;
                split(&block[16..], codes);
            }

            #[inline(always)]
            fn scale<S: Simd>(
                simd: S,
                [d, min]: [S::f32s; 2],
                words: Words<S>,
                run: usize,
            ) -> (S::f32s, Option<S::f32s>) {
                // Not in a closure: a compiler may leave one out of line, and then all that it calls.
                let (word, byte) = (1 + run / 2, 2 * (run % 2));
                let min = simd.mul_f32s(min, words.byte(word, byte + 1));
                (simd.mul_f32s(d, words.byte(word, byte)), Some(simd.neg_f32s(min)))
            }
        }
    };
}

large!(
    /// `d·s·q - dmin·m`, with s and m of 6 bits for each 32 columns.
    Q4K, Q4K, 4, large_nibbles
);
large!(
    /// `d·s·q - dmin·m`, with s and m of 6 bits for each 32 columns.
    Q5K, Q5K, 5, |bytes, codes| {
        large_nibbles(&bytes[32..], codes);
        for (run, codes) in codes.chunks_exact_mut(SMALL).enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code |= (byte >> run & 1) << 4;
            }
        }
    }
);

/// `d·s·(q - 32)`, with s of 8 bits, signed, for each 16 columns.
pub struct Q6K;

impl Format for Q6K {
    const KIND: GgmlDType = GgmlDType::Q6K;
    const BLOCK: usize = LARGE;
    const SCALES: usize = 5;
    const BITS: usize = 6;
    const SHARED: usize = 16;
    const ZERO: f32 = 32.0;

    fn split(_: usize, block: &[u8], scales: &mut [u32], codes: &mut [u8]) {
        let (low, high, of_runs) = (&block[..128], &block[128..192], &block[192..208]);
        scales[0] = half(block, 208);
        for (run, byte) in of_runs.iter().enumerate() {
            scales[1 + run / 4] |= u32::from(*byte) << (8 * (run % 4));
        }
        for (part, codes) in codes.chunks_exact_mut(LARGE / 2).enumerate() {
            let (low, high) = (&low[64 * part..][..64], &high[32 * part..][..32]);
            for (column, code) in codes.iter_mut().enumerate() {
                let (quarter, at) = (column / 32, column % 32);
                let nibble = low[32 * (quarter % 2) + at] >> (4 * (quarter / 2)) & 15;
                *code = nibble | (high[at] >> (2 * quarter) & 3) << 4;
            }
        }
    }

    #[inline(always)]
    fn scale<S: Simd>(
        simd: S,
        [d, _]: [S::f32s; 2],
        words: Words<S>,
        run: usize,
    ) -> (S::f32s, Option<S::f32s>) {
        (simd.mul_f32s(d, words.byte(1 + run / 4, run % 4)), None)
    }
}

/// Evaluates an expression with the [`Format`] of a kind; another one where the kind is not kept.
macro_rules! with_format {
    ($kind:expr, $F:ident => $call:expr, $other:expr) => {
        $crate::kernels::linear::quantised::formats::with_format!(
            @ $kind, $F, $call, $other, Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4K Q5K Q6K
        )
    };
    (@ $kind:expr, $F:ident, $call:expr, $other:expr, $($name:ident)*) => {
        match $kind {
            $(candle_core::quantized::GgmlDType::$name => {
                type $F = $crate::kernels::linear::quantised::formats::$name;
                $call
            })*
            _ => $other,
        }
    };
}
pub(super) use with_format;
