//! What pulp's vectors lack: tables in registers, and powers of two.

use pulp::{Scalar, Simd};

/// Vectors that can look 16 numbers up at once, each lane its own.
pub(crate) trait Lookup: Simd {
    /// `table[index % 16]` in every lane.
    fn lookup(self, table: &[f32; 16], index: Self::u32s) -> Self::f32s;

    /// `x·2^k` for integers -150 ≤ k ≤ 0, rounded once where the result is subnormal and x is not.
    #[inline(always)]
    fn times_power_of_two(self, x: Self::f32s, k: Self::f32s) -> Self::f32s {
        /// 1.5·2^23 and 64, which keeps the powers normal: k + 64 stands in the low bits.
        const SHIFT: f32 = 12_582_912.0 + 64.0;
        /// 2^-64, which takes it out again.
        const BACK: f32 = f32::from_bits((127 - 64) << 23);
        let bits = self.transmute_u32s_f32s(self.add_f32s(k, self.splat_f32s(SHIFT)));
        let biased = self.add_u32s(bits, self.splat_u32s(127));
        let power = self.wrapping_dyn_shl_u32s(biased, self.splat_u32s(23));
        let scaled = self.mul_f32s(x, self.transmute_f32s_u32s(power));
        self.mul_f32s(scaled, self.splat_f32s(BACK))
    }
}

impl Lookup for Scalar {
    #[inline(always)]
    fn lookup(self, table: &[f32; 16], index: u32) -> f32 {
        table[index as usize % 16]
    }
}

/// Work that is compiled for every instruction set.
pub(crate) trait Vectorized {
    /// The work, with vectors of one instruction set.
    fn run<S: Lookup>(self, simd: S);
}

/// Does the work with the widest vectors that this machine has.
pub(crate) fn dispatch(work: impl Vectorized) {
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
        fn lookup(self, table: &[f32; 16], index: u32x16) -> f32x16 {
            cast(self.avx512f._mm512_permutexvar_ps(cast(index), cast(*table)))
        }

        #[inline(always)]
        fn times_power_of_two(self, x: f32x16, k: f32x16) -> f32x16 {
            cast(self.avx512f._mm512_scalef_ps(cast(x), cast(k)))
        }
    }

    impl Lookup for V3 {
        #[inline(always)]
        fn lookup(self, table: &[f32; 16], index: u32x8) -> f32x8 {
            let [lower, upper]: [f32x8; 2] = cast(*table);
            let permute = |half| self.avx2._mm256_permutevar8x32_ps(cast(half), cast(index));
            // The blend looks at the sign: bit 3 of the index is moved there.
            let choice = cast(self.avx2._mm256_slli_epi32::<28>(cast(index)));
            cast(self.avx._mm256_blendv_ps(permute(lower), permute(upper), choice))
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::Lookup;
    use pulp::aarch64::Neon;
    use pulp::{cast, f32x4, u32x4};

    impl Lookup for Neon {
        #[inline(always)]
        fn lookup(self, table: &[f32; 16], index: u32x4) -> f32x4 {
            // The instruction looks up bytes: those of entry i are 4i to 4i + 3.
            let index: [u32; 4] = cast(index);
            let bytes: [u32; 4] = index.map(|i| (i % 16) * 0x0404_0404 + 0x0302_0100);
            let table: [core::arch::aarch64::uint8x16_t; 4] = cast(*table);
            let [a, b, c, d] = table;
            let table = core::arch::aarch64::uint8x16x4_t(a, b, c, d);
            cast(self.neon.vqtbl4q_u8(table, cast(bytes)))
        }
    }
}
