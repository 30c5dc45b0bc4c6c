//! `x·Φ(x)` of f32 in f32, the one activation for which computing in f64 would cost too much:
//! PyTorch's is as fast as the machine allows, at the price of its digits.
//!
//! `Φ(-z)` comes from a table of polynomials up to z = 5.57, far enough for every x on the right;
//! what lies beyond on the left is computed in f64. What is rounded last is a sum of which the larger
//! part is exact, so that the result is within 1 ULP; examples/prove_gelu tells how far it is at
//! worst. Every step is one IEEE operation, fused where written so, hence the same bits with vectors
//! of any width and without any.

use super::coefficients::{TAIL, TAIL_CENTER, TAIL_LAST, TAIL_SCALE};
use super::exact_f64;
use super::lookup::{Lookup, Tables, Vectorized, dispatch};
use super::precision::Single;
use pulp::{NullaryFnOnce, Simd};

/// Numbers after which those beyond the table are looked for.
const CHUNK: usize = 1024;
/// The tables: the middle of an index's piece of the axis, then the coefficients of its polynomial.
static TABLES: Tables = {
    let [c0, c1, c2, c3, c4, c5, c6] = TAIL;
    Tables::new([TAIL_CENTER, c0, c1, c2, c3, c4, c5, c6])
};
/// 1.5·2^23: what is added to it is rounded to an integer, which then stands in the low bits.
const SHIFT: f32 = 12_582_912.0;

/// Writes `x·Φ(x)` of every x to y, which is as long.
pub fn values(x: &[f32], y: &mut [f32]) {
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
        for (x, y) in self.x.chunks(CHUNK).zip(self.y.chunks_mut(CHUNK)) {
            match S::ABREAST {
                1 => near::<S, 1>(simd, x, y),
                _ => near::<S, 4>(simd, x, y),
            }
            far(x, y);
        }
    }
}

/// `x·Φ(x)` where x is not below the table.
#[inline(always)]
fn near<S: Lookup, const ABREAST: usize>(simd: S, x: &[f32], y: &mut [f32]) {
    let (x, x_rest) = S::as_simd_f32s(x);
    let (y, y_rest) = S::as_mut_simd_f32s(y);
    let (x, x_single) = x.as_chunks::<ABREAST>();
    let (y, y_single) = y.as_chunks_mut::<ABREAST>();
    for (y, &x) in y.iter_mut().zip(x) {
        *y = by_table(simd, x);
    }
    for (y, &x) in y_single.iter_mut().zip(x_single) {
        [*y] = by_table(simd, [x]);
    }
    if !x_rest.is_empty() {
        let [y] = by_table(simd, [simd.partial_load_f32s(x_rest)]);
        simd.partial_store_f32s(y_rest, y);
    }
}

/// `x·Φ(x)` where x is below the table, if there are any such x: seldom, so that they are looked for among
/// many first.
#[inline(always)]
fn far(x: &[f32], y: &mut [f32]) {
    let (x, x_rest) = x.as_chunks::<32>();
    let (y, y_rest) = y.as_chunks_mut::<32>();
    for (x, y) in x.iter().zip(y) {
        if any_far(x) {
            for (x, y) in x.as_chunks::<8>().0.iter().zip(y.as_chunks_mut::<8>().0) {
                if any_far(x) {
                    in_f64(x, y);
                }
            }
        }
    }
    in_f64(x_rest, y_rest);
}

#[inline(always)]
fn any_far(x: &[f32]) -> bool {
    x.iter().fold(false, |any, &x| any | (x < -TAIL_LAST))
}

/// Below the table, the result of the formula in f64.
#[inline(always)]
fn in_f64(x: &[f32], y: &mut [f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        let far = exact_f64::value::<Single>(f64::from(x)) as f32;
        *y = if x < -TAIL_LAST { far } else { *y };
    }
}

/// `x·Φ(x)` of several vectors, by the table.
#[inline(always)]
fn by_table<S: Lookup, const N: usize>(simd: S, x: [S::f32s; N]) -> [S::f32s; N] {
    let v = Vectors(simd);
    let z = v.map(x, |s, x| s.min_f32s(s.splat_f32s(TAIL_LAST), s.abs_f32s(x)));
    let root = v.mul_add(z, v.all(TAIL_SCALE), v.all(TAIL_SCALE));
    let index = v.mul_add(root, root, v.all(SHIFT));
    let place = v.place(index);
    // Φ(-z) = m0 + d·slope, of which the second part is below a third of the first.
    let d = v.sub(z, v.get(0, place));
    let mut slope = v.get(TAIL.len(), place);
    for table in (2..TAIL.len()).rev() {
        slope = v.mul_add(slope, d, v.get(table, place));
    }
    let m0 = v.get(1, place);
    let tail = v.mul_add(d, slope, m0);
    let lost = v.mul_add(d, slope, v.sub(m0, tail));
    let left = v.mul_add(z, tail, v.mul(z, lost)); // z·Φ(-z), rounded once
    v.zip(x, left, |s, x, left| {
        let negative = s.less_than_f32s(x, s.splat_f32s(0.0));
        s.select_f32s(negative, s.neg_f32s(left), s.sub_f32s(x, left))
    })
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

    /// Where the tables have what belongs to the integers in the numbers' low bits.
    #[inline(always)]
    fn place<const N: usize>(self, index: [S::f32s; N]) -> [S::Place; N] {
        let one = |index| self.0.transmute_u32s_f32s(index);
        let mut places = [self.0.place(&TABLES, one(index[0])); N];
        for i in 1..N {
            places[i] = self.0.place(&TABLES, one(index[i]));
        }
        places
    }

    #[inline(always)]
    fn get<const N: usize>(self, table: usize, place: [S::Place; N]) -> [S::f32s; N] {
        let mut found = [self.0.get(&TABLES, table, place[0]); N];
        for i in 1..N {
            found[i] = self.0.get(&TABLES, table, place[i]);
        }
        found
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
