//! The peak of the instruction that some processors have for the product of bf16 with bf16.

use std::arch::x86_64::{
    _mm512_add_ps, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_reduce_add_ps, _mm512_set1_ps,
    _mm512_setzero_ps,
};
use std::hint::black_box;

/// As many chains as hide the latency and leave registers for the factors.
const CHAINS: usize = 24;

/// The proof that this machine has the instruction.
#[derive(Clone, Copy)]
pub(super) struct DotBf16(());

impl DotBf16 {
    /// It, where the machine has the instruction.
    pub fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
        has.then_some(Self(()))
    }

    /// Independent chains of so many steps; counts their operations.
    pub fn chains(self, steps: usize) -> usize {
        // SAFETY: the proof exists only where the instructions do.
        unsafe { chains(steps) }
    }
}

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bf16")]
fn chains(steps: usize) -> usize {
    // As in the chains of f32. The sums grow by 3/8 a step, far from where f32 ends.
    let (x, y) = (_mm512_set1_ps(black_box(0.75)), _mm512_set1_ps(black_box(0.25)));
    let (x, y) = (_mm512_cvtne2ps_pbh(x, x), _mm512_cvtne2ps_pbh(y, y));
    let mut sums = [_mm512_setzero_ps(); CHAINS];
    for (i, sum) in sums.iter_mut().enumerate() {
        *sum = _mm512_set1_ps(i as f32);
    }
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, x, y);
        }
    }
    let mut all = _mm512_setzero_ps();
    for sum in sums {
        all = _mm512_add_ps(all, sum);
    }
    black_box(_mm512_reduce_add_ps(all));
    // 32 numbers with 32 others: a multiplication and an addition each.
    64 * CHAINS * steps
}
