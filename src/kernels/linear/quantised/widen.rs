//! Vectors of f32 out of narrower numbers that lie side by side.

use crate::kernels::linear::stored::widen_f16;
use pulp::{Simd, bytemuck};

/// The most lanes that vectors have.
const LANES: usize = 16;

/// A vector of signed bytes. There must be as many as it has lanes.
#[inline(always)]
pub fn bytes<S: Simd>(simd: S, bytes: &[i8]) -> S::f32s {
    #[cfg(target_arch = "x86_64")]
    {
        let any: &dyn std::any::Any = &simd;
        if let (Some(v3), Some(bytes)) = (any.downcast_ref::<pulp::x86::V3>(), bytes.first_chunk())
        {
            let lanes = bytemuck::cast([bytemuck::cast::<[i8; 8], u64>(*bytes), 0]);
            let words = bytemuck::cast(v3.avx2._mm256_cvtepi8_epi32(lanes));
            return bytemuck::cast(v3.convert_i32x8_to_f32x8(words));
        }
        if let (Some(v4), Some(bytes)) = (any.downcast_ref::<pulp::x86::V4>(), bytes.first_chunk())
        {
            let words = v4.avx512f._mm512_cvtepi8_epi32(bytemuck::cast::<[i8; 16], _>(*bytes));
            return bytemuck::cast(v4.convert_i32x16_to_f32x16(bytemuck::cast(words)));
        }
    }
    let mut numbers = [0.0; LANES];
    numbers.iter_mut().zip(&bytes[..S::F32_LANES]).for_each(|(x, &byte)| *x = f32::from(byte));
    vector::<S>(&numbers)
}

/// A vector of f16. There must be as many as it has lanes.
#[inline(always)]
pub fn halves<S: Simd>(simd: S, halves: &[u16]) -> S::f32s {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        let any: &dyn std::any::Any = &simd;
        if any.is::<pulp::x86::V3>()
            && std::arch::is_x86_feature_detected!("f16c")
            && let Some(halves) = halves.first_chunk()
        {
            // SAFETY: the machine has the instruction, and a `V3` is the proof of AVX.
            return bytemuck::cast(unsafe { eight_halves(halves) });
        }
        if let (Some(v4), Some(halves)) =
            (any.downcast_ref::<pulp::x86::V4>(), halves.first_chunk::<16>())
        {
            return bytemuck::cast(v4.avx512f._mm512_cvtph_ps(bytemuck::cast(*halves)));
        }
    }
    let mut bits = [0; LANES];
    bits.iter_mut().zip(&halves[..S::F32_LANES]).for_each(|(x, &half)| *x = u32::from(half) << 16);
    widen_f16(simd, S::as_simd_u32s(&bits).0[0])
}

/// The first vector of some numbers.
#[inline(always)]
fn vector<S: Simd>(numbers: &[f32; LANES]) -> S::f32s {
    S::as_simd_f32s(numbers).0[0]
}

/// By F16C's instruction. (Functions with a [`pulp::x86::V3`] cannot have its feature switched on.)
///
/// # Safety
/// The machine must have F16C.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
#[target_feature(enable = "avx")]
unsafe fn eight_halves(halves: &[u16; 8]) -> std::arch::x86_64::__m256 {
    let numbers;
    // SAFETY: it reads 16 bytes, which the array has, from any address; the caller says that there is such an instruction.
    unsafe {
        std::arch::asm!(
            "vcvtph2ps {}, xmmword ptr [{}]",
            out(ymm_reg) numbers,
            in(reg) halves,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::{bytes, halves};
    use half::f16;
    use pulp::{Arch, Scalar, Simd, WithSimd, bytemuck};

    struct All;

    impl WithSimd for All {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let all: Vec<u16> = (0..=u16::MAX).collect();
            for some in all.chunks(S::F32_LANES) {
                let numbers = halves(simd, some);
                for (&bits, &number) in some.iter().zip(numbers_of::<S>(&numbers)) {
                    let expected = f16::from_bits(bits).to_f32();
                    assert!(
                        expected.is_nan() && number.is_nan()
                            || expected.to_bits() == number.to_bits()
                    );
                }
            }
            let all: Vec<i8> = (i8::MIN..=i8::MAX).collect();
            for some in all.chunks(S::F32_LANES) {
                let numbers = bytes(simd, some);
                assert!(
                    some.iter()
                        .map(|&byte| f32::from(byte))
                        .eq(numbers_of::<S>(&numbers).iter().copied())
                );
            }
        }
    }

    fn numbers_of<S: Simd>(vector: &S::f32s) -> &[f32] {
        bytemuck::cast_slice(std::slice::from_ref(vector))
    }

    #[test]
    fn every_number_on_every_instruction_set() {
        Arch::new().dispatch(All);
        Simd::vectorize(Scalar, All);
        #[cfg(target_arch = "x86_64")]
        if let Some(simd) = pulp::x86::V3::try_new() {
            Simd::vectorize(simd, All);
        }
    }
}
