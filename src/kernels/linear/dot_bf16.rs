//! The product of bf16 with bf16 in the instruction that some processors have for it: two columns
//! at a time, twice the arithmetic of f32.
//!
//! Products are exact in f32 and sums are f32, rounded after each of a pair's two products (Intel,
//! Instruction Set Extensions Reference, `VDPBF16PS`), so that the error has the bound of the other
//! kernels; but subnormal numbers, below 2^-126, count as 0.

use super::kernel::{Kernel, Sliver, TILE};
use super::stored::PANEL;
use half::bf16;
use pulp::{cast, f32x16, u32x16};
use std::arch::x86_64::{__m512bh, __m512i, _mm512_dpbf16_ps, _mm512_set1_epi32};
use std::sync::atomic::{Ordering, compiler_fence};

/// The proof that this machine has the instruction.
#[derive(Clone, Copy)]
pub struct DotBf16(());

impl DotBf16 {
    /// The kernel, where the machine has the instruction.
    pub fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
        has.then_some(Self(()))
    }
}

impl Kernel<bf16> for DotBf16 {
    type X = bf16;

    const ROWS: usize = 12;

    fn multiply<const R: usize>(self, sliver: Sliver<bf16, bf16, R>) {
        // SAFETY: the kernel exists only where the instructions do.
        unsafe { multiply(sliver) }
    }
}

/// Vectors in a panel.
const VECTORS: usize = PANEL / 16;

#[inline(never)]
#[target_feature(enable = "avx512f,avx512bf16")]
fn multiply<const R: usize>(sliver: Sliver<bf16, bf16, R>) {
    let Sliver { x, panel, mut ahead, sums: out, width, half: _ } = sliver;
    let mut sums = [[cast::<_, f32x16>([0f32; 16]); VECTORS]; R];
    let steps = panel.len().min(TILE / 2);
    for (i, columns) in panel[..steps].iter().enumerate() {
        ahead.fetch::<1, 1>();
        let w: [u32x16; VECTORS] = cast(columns.pairs());
        for (sums, x) in sums.iter_mut().zip(x) {
            let pair = u32::from(x[2 * i].to_bits()) | u32::from(x[2 * i + 1].to_bits()) << 16;
            let x = _mm512_set1_epi32(pair as i32);
            for (sum, &w) in sums.iter_mut().zip(&w) {
                *sum = cast(_mm512_dpbf16_ps(cast(*sum), numbers(cast(w)), numbers(x)));
            }
            // As in the other kernels.
            compiler_fence(Ordering::SeqCst);
        }
    }
    for (r, sums) in sums.into_iter().enumerate() {
        let row = &mut out[r * width..][..PANEL];
        let added: [f32; PANEL] = cast(sums);
        row.iter_mut().zip(added).for_each(|(row, sum)| *row += sum);
    }
}

/// 32 numbers in the type that the instruction is declared with.
#[inline(always)]
fn numbers(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits, and any bits are numbers.
    unsafe { std::mem::transmute(bits) }
}
