//! The one thing that pulp's vectors lack: tables in which every lane looks up a number of its own.

use pulp::{Scalar, Simd};

/// Tables of 32 numbers each that one index is looked up in.
pub struct Tables {
    /// One after the other.
    tables: [[f32; 32]; 8],
    /// What an index has in all of them, side by side.
    rows: [[f32; 8]; 32],
}

impl Tables {
    /// Both forms.
    pub const fn new(tables: [[f32; 32]; 8]) -> Self {
        let mut rows = [[0.0; 8]; 32];
        let mut i = 0;
        while i < 8 * 32 {
            rows[i % 32][i / 32] = tables[i / 32][i % 32];
            i += 1;
        }
        Self { tables, rows }
    }
}

/// Vectors whose lanes can look numbers up.
pub trait Lookup: Simd {
    /// Vectors that had better be computed side by side, 1 or 4: one alone waits for its own results.
    const ABREAST: usize;

    /// What is known of the lanes' places in all tables, where it pays to find it out at once.
    type Place: Copy;

    /// The places of `index % 32`.
    fn place(self, tables: &Tables, index: Self::u32s) -> Self::Place;

    /// What one of the tables has there.
    fn get(self, tables: &Tables, table: usize, place: Self::Place) -> Self::f32s;
}

impl Lookup for Scalar {
    const ABREAST: usize = 4;
    type Place = u32;

    #[inline(always)]
    fn place(self, _: &Tables, index: u32) -> u32 {
        index
    }

    #[inline(always)]
    fn get(self, tables: &Tables, table: usize, place: u32) -> f32 {
        tables.rows[place as usize % 32][table]
    }
}

/// Work that is compiled for every instruction set.
pub trait Vectorized {
    /// The work, with vectors of one instruction set.
    fn run<S: Lookup>(self, simd: S);
}

/// Does the work with the widest vectors that this machine has.
pub fn dispatch(work: impl Vectorized) {
    #[cfg(target_arch = "x86_64")]
    match pulp::x86::Arch::new() {
        pulp::x86::Arch::V4(simd) => return work.run(simd),
        pulp::x86::Arch::V3(simd) => return work.run(simd),
        _ => (),
    }
    #[cfg(target_arch = "aarch64")]
    if let pulp::aarch64::Arch::Neon(simd) = pulp::aarch64::Arch::new() {
        return work.run(simd);
    }
    work.run(Scalar);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Lookup, Tables};
    use pulp::x86::{V3, V4};
    use pulp::{cast, f32x8, f32x16, u32x8, u32x16};
    use std::arch::x86_64::__m256;

    /// An instruction has 32 numbers in two registers.
    impl Lookup for V4 {
        const ABREAST: usize = 4;
        type Place = u32x16;

        #[inline(always)]
        fn place(self, _: &Tables, index: u32x16) -> u32x16 {
            index
        }

        #[inline(always)]
        fn get(self, tables: &Tables, table: usize, place: u32x16) -> f32x16 {
            let [lower, upper]: [f32x16; 2] = cast(tables.tables[table]);
            cast(self.avx512f._mm512_permutex2var_ps(cast(lower), cast(place), cast(upper)))
        }
    }

    /// Each lane's numbers of all tables are loaded at once, and the lanes turned into vectors: for 8 tables that
    /// takes a third of the time of looking for 32 numbers among four registers in each.
    impl Lookup for V3 {
        const ABREAST: usize = 1;
        type Place = [f32x8; 8];

        #[inline(always)]
        fn place(self, tables: &Tables, index: u32x8) -> [f32x8; 8] {
            let index: [u32; 8] = cast(index);
            let mut rows = [[0.0; 8]; 8];
            for lane in 0..8 {
                rows[lane] = tables.rows[index[lane] as usize % 32];
            }
            let [a, b, c, d] = fours(self, [rows[0], rows[1], rows[2], rows[3]]);
            let [e, f, g, h] = fours(self, [rows[4], rows[5], rows[6], rows[7]]);
            [
                halves::<0x20>(self, a, e),
                halves::<0x20>(self, b, f),
                halves::<0x20>(self, c, g),
                halves::<0x20>(self, d, h),
                halves::<0x31>(self, a, e),
                halves::<0x31>(self, b, f),
                halves::<0x31>(self, c, g),
                halves::<0x31>(self, d, h),
            ]
        }

        #[inline(always)]
        fn get(self, _: &Tables, table: usize, place: [f32x8; 8]) -> f32x8 {
            place[table]
        }
    }

    /// The first step of turning 8 lanes into vectors: four lanes, of which every vector has two numbers in each half.
    #[inline(always)]
    fn fours(simd: V3, [a, b, c, d]: [[f32; 8]; 4]) -> [__m256; 4] {
        let [a, b, c, d]: [__m256; 4] = [cast(a), cast(b), cast(c), cast(d)];
        let avx = simd.avx;
        let (ab, ab_high) = (avx._mm256_unpacklo_ps(a, b), avx._mm256_unpackhi_ps(a, b));
        let (cd, cd_high) = (avx._mm256_unpacklo_ps(c, d), avx._mm256_unpackhi_ps(c, d));
        [
            avx._mm256_shuffle_ps::<0b01_00_01_00>(ab, cd),
            avx._mm256_shuffle_ps::<0b11_10_11_10>(ab, cd),
            avx._mm256_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high),
            avx._mm256_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high),
        ]
    }

    /// The second step: the lower (0x20) or the upper (0x31) halves of two.
    #[inline(always)]
    fn halves<const WHICH: i32>(simd: V3, a: __m256, b: __m256) -> f32x8 {
        cast(simd.avx._mm256_permute2f128_ps::<WHICH>(a, b))
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::{Lookup, Tables};
    use core::arch::aarch64::{uint8x16_t, uint8x16x4_t};
    use pulp::aarch64::Neon;
    use pulp::{cast, f32x4, u32x4};

    impl Lookup for Neon {
        const ABREAST: usize = 4;
        type Place = u32x4;

        #[inline(always)]
        fn place(self, _: &Tables, index: u32x4) -> u32x4 {
            index
        }

        #[inline(always)]
        fn get(self, tables: &Tables, table: usize, place: u32x4) -> f32x4 {
            // The instruction looks up bytes, those of entry i being 4i to 4i + 3, and gives 0 beyond
            // its 64: of the two halves of the table one answers.
            let index: [u32; 4] = cast(place);
            let bytes = index.map(|i| (i % 32) * 0x0404_0404 + 0x0302_0100);
            let beyond = bytes.map(|bytes| bytes ^ 0x4040_4040);
            let table: [[uint8x16_t; 4]; 2] = cast(tables.tables[table]);
            let [lower, upper] = table.map(|[a, b, c, d]| uint8x16x4_t(a, b, c, d));
            let lower: [u32; 4] = cast(self.neon.vqtbl4q_u8(lower, cast(bytes)));
            let upper: [u32; 4] = cast(self.neon.vqtbl4q_u8(upper, cast(beyond)));
            let either: [u32; 4] = core::array::from_fn(|i| lower[i] | upper[i]);
            cast(either)
        }
    }
}
