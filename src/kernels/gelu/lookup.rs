//! The one instruction that pulp's vectors lack: a table in registers.

use pulp::{Scalar, Simd};

/// Vectors that can look 32 numbers up at once, each lane its own.
pub trait Lookup: Simd {
    /// `table[index % 32]` in every lane.
    fn lookup(self, table: &[f32; 32], index: Self::u32s) -> Self::f32s;
}

impl Lookup for Scalar {
    #[inline(always)]
    fn lookup(self, table: &[f32; 32], index: u32) -> f32 {
        table[index as usize % 32]
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
    use super::Lookup;
    use pulp::x86::{V3, V4};
    use pulp::{cast, f32x8, f32x16, u32x8, u32x16};

    impl Lookup for V4 {
        #[inline(always)]
        fn lookup(self, table: &[f32; 32], index: u32x16) -> f32x16 {
            let [lower, upper]: [f32x16; 2] = cast(*table);
            cast(self.avx512f._mm512_permutex2var_ps(cast(lower), cast(index), cast(upper)))
        }
    }

    impl Lookup for V3 {
        #[inline(always)]
        fn lookup(self, table: &[f32; 32], index: u32x8) -> f32x8 {
            let quarters: [f32x8; 4] = cast(*table);
            let [a, b, c, d] = quarters
                .map(|quarter| self.avx2._mm256_permutevar8x32_ps(cast(quarter), cast(index)));
            // A blend looks at the sign: bits 3 and 4 of the index are moved there.
            let bit_3 = cast(self.avx2._mm256_slli_epi32::<28>(cast(index)));
            let bit_4 = cast(self.avx2._mm256_slli_epi32::<27>(cast(index)));
            let lower = self.avx._mm256_blendv_ps(a, b, bit_3);
            let upper = self.avx._mm256_blendv_ps(c, d, bit_3);
            cast(self.avx._mm256_blendv_ps(lower, upper, bit_4))
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::Lookup;
    use core::arch::aarch64::{uint8x16_t, uint8x16x4_t};
    use pulp::aarch64::Neon;
    use pulp::{cast, f32x4, u32x4};

    impl Lookup for Neon {
        #[inline(always)]
        fn lookup(self, table: &[f32; 32], index: u32x4) -> f32x4 {
            // The instruction looks up bytes, those of entry i being 4i to 4i + 3, and gives 0 beyond
            // its 64: of the two halves of the table one answers.
            let index: [u32; 4] = cast(index);
            let bytes = index.map(|i| (i % 32) * 0x0404_0404 + 0x0302_0100);
            let beyond = bytes.map(|bytes| bytes ^ 0x4040_4040);
            let table: [[uint8x16_t; 4]; 2] = cast(*table);
            let [lower, upper] = table.map(|[a, b, c, d]| uint8x16x4_t(a, b, c, d));
            let lower: [u32; 4] = cast(self.neon.vqtbl4q_u8(lower, cast(bytes)));
            let upper: [u32; 4] = cast(self.neon.vqtbl4q_u8(upper, cast(beyond)));
            let either: [u32; 4] = core::array::from_fn(|i| lower[i] | upper[i]);
            cast(either)
        }
    }
}
