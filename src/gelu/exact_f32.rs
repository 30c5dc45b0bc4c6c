//! `x·Φ(x)` of f32 in f32, the one activation for which doubling the width would cost too much:
//! PyTorch's is as fast as the machine allows at the price of its digits.
//!
//! On the left `z·Φ(-z) = z·e^(-z²/2)·M(z)`, with M from a table of polynomials. What is rounded
//! last is a sum whose larger part is exact, so that the result is within 1 ULP; examples/prove_gelu
//! tells how far it is at worst. Every step is one IEEE operation, fused where written so, hence the
//! same bits with vectors of any width and without any.

use super::coefficients::{EXP_F32, MILLS_CENTER, MILLS_F32};
use super::lookup::{Lookup, Vectorized, dispatch};
use pulp::{NullaryFnOnce, Simd};

/// Vectors that are computed side by side: one alone waits for its own results.
const ABREAST: usize = 2;
/// Beyond, `z·Φ(-z)` is below half the least f32.
const SATURATED: f32 = 14.6;
/// 1.5·2^23: what is added to it is rounded to an integer.
const SHIFT: f32 = 12_582_912.0;
/// ln 2 in two parts, of which the first times an exponent is exact.
const LN_2: (f32, f32) = (0.693_145_75, 1.428_606_8e-6);

/// Writes `x·Φ(x)` of every x to y, which is as long.
pub(crate) fn values(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "slices of one length");
    dispatch(Values { x, y });
}

struct Values<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Vectorized for Values<'_> {
    fn run<S: Lookup>(self, simd: S) {
        struct Inlined<'a, S>(S, Values<'a>);
        impl<S: Lookup> NullaryFnOnce for Inlined<'_, S> {
            type Output = ();
            #[inline(always)]
            fn call(self) {
                self.1.all(self.0);
            }
        }
        Simd::vectorize(simd, Inlined(simd, self));
    }
}

impl Values<'_> {
    #[inline(always)]
    fn all<S: Lookup>(self, simd: S) {
        let (x, x_rest) = S::as_simd_f32s(self.x);
        let (y, y_rest) = S::as_mut_simd_f32s(self.y);
        let (x, x_single) = x.as_chunks::<ABREAST>();
        let (y, y_single) = y.as_chunks_mut::<ABREAST>();
        for (y, &x) in y.iter_mut().zip(x) {
            *y = exact(simd, x);
        }
        for (y, &x) in y_single.iter_mut().zip(x_single) {
            [*y] = exact(simd, [x]);
        }
        if !x_rest.is_empty() {
            let [y] = exact(simd, [simd.partial_load_f32s(x_rest)]);
            simd.partial_store_f32s(y_rest, y);
        }
    }
}

/// `x·Φ(x)` of several vectors.
#[inline(always)]
fn exact<S: Lookup, const N: usize>(simd: S, x: [S::f32s; N]) -> [S::f32s; N] {
    let v = Vectors(simd);
    let z = v.map(x, |s, x| s.min_f32s(s.splat_f32s(SATURATED), s.abs_f32s(x)));
    let (m0, d, slope) = mills(v, z); // M(z) = m0 + d·slope, |d·slope| below m0 / 6

    // e^(-z²/2) = 2^k·(1 + hi + c): z²/2 as -(square + low), less k·ln 2.
    let half = v.mul(z, v.all(-0.5));
    let square = v.mul(half, z);
    let low = v.mul_add(half, z, v.map(square, |s, a| s.neg_f32s(a)));
    let k = v.mul_add(square, v.all(std::f32::consts::LOG2_E), v.all(SHIFT));
    let k = v.sub(k, v.all(SHIFT));
    let hi = v.mul_add(k, v.all(-LN_2.0), square); // exact
    let low = v.mul_add(k, v.all(-LN_2.1), low);
    let r = v.add(hi, low);
    let mut q = v.all(EXP_F32[EXP_F32.len() - 1]);
    for &coefficient in EXP_F32.iter().rev().skip(1) {
        q = v.mul_add(q, r, v.all(coefficient));
    }
    let c = v.mul_add(v.mul(r, r), q, low);

    // (1 + hi + c)·M(z) = m0 + hi·m0, kept as two numbers, and a remainder that is small.
    let remainder = v.mul(c, v.mul_add(d, slope, m0));
    let remainder = v.mul_add(d, v.mul_add(hi, slope, slope), remainder);
    let main = v.mul_add(hi, m0, m0);
    let lost = v.mul_add(hi, m0, v.sub(m0, main));
    let left = v.mul_add(z, main, v.mul_add(z, remainder, v.mul(z, lost)));
    let left = v.zip(left, k, S::times_power_of_two);
    v.zip(x, left, |s, x, left| {
        let negative = s.less_than_f32s(x, s.splat_f32s(0.0));
        s.select_f32s(negative, s.neg_f32s(left), s.sub_f32s(x, left))
    })
}

/// M at the center of z's interval, the distance of z from there, and the slope of M in between.
#[inline(always)]
fn mills<S: Lookup, const N: usize>(
    v: Vectors<S>,
    z: [S::f32s; N],
) -> ([S::f32s; N], [S::f32s; N], [S::f32s; N]) {
    let root = v.add(z, v.all(1.0));
    let index = v.map(v.mul(root, root), |s, u| {
        let bits = s.transmute_u32s_f32s(u);
        s.transmute_f32s_u32s(s.wrapping_dyn_shr_u32s(bits, s.splat_u32s(22)))
    });
    let d = v.sub(z, v.lookup(&MILLS_CENTER, index));
    let mut slope = v.lookup(&MILLS_F32[MILLS_F32.len() - 1], index);
    for table in MILLS_F32.iter().rev().skip(1).take(MILLS_F32.len() - 2) {
        slope = v.mul_add(slope, d, v.lookup(table, index));
    }
    (v.lookup(&MILLS_F32[0], index), d, slope)
}

/// Arithmetic on several vectors, step by step, so that their steps alternate.
#[derive(Clone, Copy)]
struct Vectors<S>(S);

impl<S: Lookup> Vectors<S> {
    #[inline(always)]
    fn all<const N: usize>(self, x: f32) -> [S::f32s; N] {
        [self.0.splat_f32s(x); N]
    }

    #[inline(always)]
    fn map<const N: usize>(
        self,
        mut a: [S::f32s; N],
        f: impl Fn(S, S::f32s) -> S::f32s,
    ) -> [S::f32s; N] {
        for a in &mut a {
            *a = f(self.0, *a);
        }
        a
    }

    #[inline(always)]
    fn zip<const N: usize>(
        self,
        mut a: [S::f32s; N],
        b: [S::f32s; N],
        f: impl Fn(S, S::f32s, S::f32s) -> S::f32s,
    ) -> [S::f32s; N] {
        for (a, b) in a.iter_mut().zip(b) {
            *a = f(self.0, *a, b);
        }
        a
    }

    #[inline(always)]
    fn add<const N: usize>(self, a: [S::f32s; N], b: [S::f32s; N]) -> [S::f32s; N] {
        self.zip(a, b, S::add_f32s)
    }

    #[inline(always)]
    fn sub<const N: usize>(self, a: [S::f32s; N], b: [S::f32s; N]) -> [S::f32s; N] {
        self.zip(a, b, S::sub_f32s)
    }

    #[inline(always)]
    fn mul<const N: usize>(self, a: [S::f32s; N], b: [S::f32s; N]) -> [S::f32s; N] {
        self.zip(a, b, S::mul_f32s)
    }

    /// `a·b + c`, rounded once.
    #[inline(always)]
    fn mul_add<const N: usize>(
        self,
        mut a: [S::f32s; N],
        b: [S::f32s; N],
        c: [S::f32s; N],
    ) -> [S::f32s; N] {
        for (a, (b, c)) in a.iter_mut().zip(b.into_iter().zip(c)) {
            *a = self.0.mul_add_f32s(*a, b, c);
        }
        a
    }

    #[inline(always)]
    fn lookup<const N: usize>(self, table: &[f32; 16], index: [S::f32s; N]) -> [S::f32s; N] {
        self.map(index, |s, index| s.lookup(table, s.transmute_u32s_f32s(index)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bits(y: &[f32]) -> Vec<u32> {
        y.iter().map(|y| y.to_bits()).collect()
    }

    proptest! {
        /// Vectors of every width that this machine has, and none, give the same bits, at any length.
        #[test]
        fn same_bits_on_every_instruction_set(x in prop::collection::vec(prop_oneof![any::<f32>(), -16f32..16.0], 0..200)) {
            let mut scalar = vec![0f32; x.len()];
            Values { x: &x, y: &mut scalar }.run(pulp::Scalar);
            let mut best = vec![0f32; x.len()];
            values(&x, &mut best);
            prop_assert_eq!(bits(&scalar), bits(&best));
            #[cfg(target_arch = "x86_64")]
            if let Some(simd) = pulp::x86::V3::try_new() {
                Values { x: &x, y: &mut best }.run(simd);
                prop_assert_eq!(bits(&scalar), bits(&best));
            }
        }
    }
}
