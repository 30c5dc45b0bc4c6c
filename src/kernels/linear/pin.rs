//! Keeping a compiler from moving vectors out of registers.

use pulp::Simd;
#[cfg(all(target_arch = "x86_64", not(miri)))]
use std::arch::x86_64::__m256;

/// A vector as it is, once it is computed and in a register, before anything that follows is loaded.
///
/// A compiler takes unrolled products apart and loads all that they need first; what it then has too
/// few registers for goes to memory and back.
#[inline(always)]
pub fn pin<S: Simd>(_: S, vector: S::f32s) -> S::f32s {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    if std::any::TypeId::of::<S>() == std::any::TypeId::of::<pulp::x86::V3>() {
        // SAFETY: a `V3` is the proof that this machine has AVX, and what both fields are is one type.
        unsafe {
            let ymm = Same::<S::f32s, __m256> { from: vector }.into;
            return Same::<__m256, S::f32s> { from: in_register(ymm) }.into;
        }
    }
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    vector
}

/// The vector, which no compiler sees through.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
#[target_feature(enable = "avx")]
fn in_register(mut vector: __m256) -> __m256 {
    // SAFETY: no instruction at all. That it may read and write memory is what keeps later loads behind it.
    unsafe {
        std::arch::asm!("/* {0} */", inout(ymm_reg) vector, options(nostack, preserves_flags))
    };
    vector
}

/// One vector under two names. With checks, what libraries cast with would go through memory.
#[cfg(all(target_arch = "x86_64", not(miri)))]
union Same<A: Copy, B: Copy> {
    from: A,
    into: B,
}
