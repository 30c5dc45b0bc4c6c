//! The distance between two tensors.

use super::values::{Values, with_values};
use candle_core::Tensor;
use gemma_mlp::internal::threads;
use gemma_mlp::internal::vectorized;
use pulp::{Arch, Simd, WithSimd, bytemuck};
use serde::{Deserialize, Serialize};

/// How far `b` is from `a`. JSON shows a figure that is not finite as `null`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Metrics {
    /// The largest |b - a|.
    #[serde(deserialize_with = "nan_from_null")]
    pub max_abs: f64,
    /// The root of the mean of (b - a)².
    #[serde(deserialize_with = "nan_from_null")]
    pub rms: f64,
    /// ‖b - a‖ / ‖a‖; 0 if both norms are 0.
    #[serde(deserialize_with = "nan_from_null")]
    pub rel_l2: f64,
    /// a·b / (‖a‖·‖b‖); 1 if the two are equal, zeros included.
    #[serde(deserialize_with = "nan_from_null")]
    pub cosine: f64,
}

impl Metrics {
    /// How far `b` is from `a`: two tensors of one shape, of any floating-point dtypes. Differences
    /// and sums are f64.
    ///
    /// # Errors
    /// candle's, if the shapes differ, of an integer dtype, or if the device fails.
    pub fn of(a: &Tensor, b: &Tensor) -> Result<Self, candle_core::Error> {
        Ok(Accumulator::of(a, b)?.metrics())
    }
}

/// The sums that [`Metrics`] come from, in f64. Accumulators of parts of a tensor add up to that of
/// the whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub(crate) struct Accumulator {
    count: usize,
    #[serde(deserialize_with = "nan_from_null")]
    max_abs: f64,
    #[serde(deserialize_with = "nan_from_null")]
    difference: f64,
    #[serde(deserialize_with = "nan_from_null")]
    norm_a: f64,
    #[serde(deserialize_with = "nan_from_null")]
    norm_b: f64,
    #[serde(deserialize_with = "nan_from_null")]
    dot: f64,
}

/// Which sides of a pair have values that are NaN or infinite.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct NonFinite {
    /// Whether a has any.
    pub a: bool,
    /// Whether b has any.
    pub b: bool,
}

impl NonFinite {
    /// Whether either has any.
    pub fn any(self) -> bool {
        self.a || self.b
    }

    /// What either of two tensors' sides has.
    pub(super) fn or(self, other: Self) -> Self {
        Self { a: self.a || other.a, b: self.b || other.b }
    }
}

/// JSON has no NaN and no infinities; they are written as null.
pub(super) fn nan_from_null<'de, D: serde::Deserializer<'de>>(number: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(number)?.unwrap_or(f64::NAN))
}

/// Elements that are summed at a time, by one thread: as many for any number of threads, which
/// keeps the bits of the sums.
const CHUNK: usize = 1 << 14;
/// Elements that are widened at a time.
const WIDENED: usize = 512;
/// Sums that run side by side in a vector register.
const LANES: usize = 8;

impl Accumulator {
    /// The sums of two tensors of one shape.
    pub(crate) fn of(a: &Tensor, b: &Tensor) -> Result<Self, candle_core::Error> {
        let mut sums = Self::default();
        sums.add(a, b)?;
        Ok(sums)
    }

    /// Adds two tensors of one shape, of any floating-point dtypes.
    pub(crate) fn add(&mut self, a: &Tensor, b: &Tensor) -> Result<(), candle_core::Error> {
        if a.shape() != b.shape() {
            return Err(candle_core::Error::ShapeMismatchBinaryOp {
                lhs: a.shape().clone(),
                rhs: b.shape().clone(),
                op: "drift",
            });
        }
        let parts = with_values(a, |a| with_values(b, |b| Ok(Self::parts(a, b))))?;
        parts.iter().for_each(|part| self.merge(part));
        Ok(())
    }

    fn parts(a: Values, b: Values) -> Vec<Self> {
        let chunks = (0..a.len()).step_by(CHUNK);
        let chunk = |at: usize| {
            let mut sums = Self::default();
            let (mut wide_a, mut wide_b) = ([0.0; WIDENED], [0.0; WIDENED]);
            let end = (at + CHUNK).min(a.len());
            for start in (at..end).step_by(WIDENED) {
                let range = start..(start + WIDENED).min(end);
                let (wide_a, wide_b) = (&mut wide_a[..range.len()], &mut wide_b[..range.len()]);
                vectorized(
                    #[inline(always)]
                    || {
                        a.widen(range.clone(), wide_a);
                        b.widen(range, wide_b);
                    },
                );
                sums.add_slices(wide_a, wide_b);
            }
            sums
        };
        threads::map(a.len(), chunks, chunk)
    }

    /// Adds two slices of one length.
    pub(crate) fn add_slices(&mut self, a: &[f64], b: &[f64]) {
        self.merge(&Arch::new().dispatch(Slices { a, b }));
    }

    /// Adds the sums of another part of the tensors.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.max_abs = max(self.max_abs, other.max_abs);
        self.difference += other.difference;
        self.norm_a += other.norm_a;
        self.norm_b += other.norm_b;
        self.dot += other.dot;
    }

    /// Whether everything added so far was finite.
    pub(crate) fn is_finite(&self) -> bool {
        !self.nonfinite().any()
    }

    /// Which of the two had values that are not finite.
    pub(crate) fn nonfinite(&self) -> NonFinite {
        NonFinite { a: !self.norm_a.is_finite(), b: !self.norm_b.is_finite() }
    }

    /// ‖b‖/‖a‖; 1 of nothing.
    pub(crate) fn norm_ratio(&self) -> f64 {
        if self.norm_a == self.norm_b { 1.0 } else { (self.norm_b / self.norm_a).sqrt() }
    }

    /// ‖a‖², ‖b‖² and a·b.
    pub(crate) fn products(&self) -> [f64; 3] {
        [self.norm_a, self.norm_b, self.dot]
    }

    /// How many elements were added.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// The figures of everything added so far; all 0 (cosine 1) if that is nothing.
    pub(crate) fn metrics(&self) -> Metrics {
        let equal = self.difference == 0.0;
        let ratio = |over: f64, under: f64| if equal { 0.0 } else { over / under };
        Metrics {
            max_abs: self.max_abs,
            rms: (self.difference / self.count.max(1) as f64).sqrt(),
            rel_l2: ratio(self.difference, self.norm_a).sqrt(),
            cosine: if equal { 1.0 } else { self.dot / (self.norm_a.sqrt() * self.norm_b.sqrt()) },
        }
    }
}

/// Two slices to be summed with vectors of any instruction set, and to the same bits.
struct Slices<'a> {
    a: &'a [f64],
    b: &'a [f64],
}

impl WithSimd for Slices<'_> {
    type Output = Accumulator;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Accumulator {
        match S::F64_LANES {
            8 => self.sums::<S, 1>(simd),
            4 => self.sums::<S, 2>(simd),
            2 => self.sums::<S, 4>(simd),
            _ => self.sums::<S, 8>(simd),
        }
    }
}

impl Slices<'_> {
    /// The sums, in [`LANES`] parts that `N` vectors hold.
    #[inline(always)]
    fn sums<S: Simd, const N: usize>(self, simd: S) -> Accumulator {
        let (whole_a, rest_a) = self.a.as_chunks::<LANES>();
        let (whole_b, rest_b) = self.b.as_chunks::<LANES>();
        let mut sums = Sums::<S, N>::new(simd);
        for (a, b) in whole_a.iter().zip(whole_b) {
            sums.add(simd, vectors::<S, N>(a), vectors::<S, N>(b));
        }
        let (mut last_a, mut last_b) = ([0.0; LANES], [0.0; LANES]);
        last_a[..rest_a.len()].copy_from_slice(rest_a);
        last_b[..rest_b.len()].copy_from_slice(rest_b);
        sums.add(simd, vectors::<S, N>(&last_a), vectors::<S, N>(&last_b));
        let difference = sum::<S, N>(sums.difference);
        Accumulator {
            count: self.a.len(),
            // The instruction that finds the largest loses NaN, which the sum keeps.
            max_abs: match difference.is_nan() {
                true => f64::NAN,
                false => lanes::<S, N>(sums.largest).into_iter().fold(0.0, max),
            },
            difference,
            norm_a: sum::<S, N>(sums.norm_a),
            norm_b: sum::<S, N>(sums.norm_b),
            dot: sum::<S, N>(sums.dot),
        }
    }
}

/// What an [`Accumulator`] adds up, in vectors.
struct Sums<S: Simd, const N: usize> {
    largest: [S::f64s; N],
    difference: [S::f64s; N],
    norm_a: [S::f64s; N],
    norm_b: [S::f64s; N],
    dot: [S::f64s; N],
}

impl<S: Simd, const N: usize> Sums<S, N> {
    #[inline(always)]
    fn new(simd: S) -> Self {
        let zeros = [simd.splat_f64s(0.0); N];
        Self { largest: zeros, difference: zeros, norm_a: zeros, norm_b: zeros, dot: zeros }
    }

    #[inline(always)]
    fn add(&mut self, simd: S, a: [S::f64s; N], b: [S::f64s; N]) {
        for i in 0..N {
            let d = simd.sub_f64s(b[i], a[i]);
            self.largest[i] = simd.max_f64s(self.largest[i], simd.abs_f64s(d));
            self.difference[i] = simd.mul_add_f64s(d, d, self.difference[i]);
            self.norm_a[i] = simd.mul_add_f64s(a[i], a[i], self.norm_a[i]);
            self.norm_b[i] = simd.mul_add_f64s(b[i], b[i], self.norm_b[i]);
            self.dot[i] = simd.mul_add_f64s(a[i], b[i], self.dot[i]);
        }
    }
}

/// Numbers as vectors.
#[inline(always)]
fn vectors<S: Simd, const N: usize>(numbers: &[f64; LANES]) -> [S::f64s; N] {
    let vectors = S::as_simd_f64s(numbers).0;
    std::array::from_fn(
        #[inline(always)]
        |i| vectors[i],
    )
}

/// Vectors as numbers.
#[inline(always)]
fn lanes<S: Simd, const N: usize>(vectors: [S::f64s; N]) -> [f64; LANES] {
    let mut lanes = [0.0; LANES];
    lanes.copy_from_slice(bytemuck::cast_slice(&vectors));
    lanes
}

#[inline(always)]
fn sum<S: Simd, const N: usize>(vectors: [S::f64s; N]) -> f64 {
    lanes::<S, N>(vectors).iter().sum()
}

/// The larger one, or NaN if either is: `f64::max` would hide it.
#[inline(always)]
fn max(a: f64, b: f64) -> f64 {
    if a > b || a.is_nan() { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn metrics(a: &[f64], b: &[f64]) -> Metrics {
        let tensor = |v: &[f64]| Tensor::from_slice(v, v.len(), &Device::Cpu).unwrap();
        Metrics::of(&tensor(a), &tensor(b)).unwrap()
    }

    #[test]
    fn by_hand() {
        let m = metrics(&[3.0, 0.0], &[3.0, 4.0]);
        assert_eq!((m.max_abs, m.rms, m.rel_l2, m.cosine), (4.0, 8f64.sqrt(), 4.0 / 3.0, 0.6));
    }

    #[test]
    fn nothing_and_equals() {
        let same = Metrics { max_abs: 0.0, rms: 0.0, rel_l2: 0.0, cosine: 1.0 };
        assert_eq!(metrics(&[], &[]), same);
        assert_eq!(metrics(&[0.0, 0.0], &[0.0, 0.0]), same);
        assert_eq!(metrics(&[0.1, -0.7], &[0.1, -0.7]), same);
        assert_eq!(metrics(&[0.0], &[1.0]).rel_l2, f64::INFINITY);
    }

    #[test]
    fn nan_and_infinity_show() {
        let m = metrics(&[1.0, f64::NAN], &[1.0, 2.0]);
        assert!(m.max_abs.is_nan() && m.rms.is_nan() && m.rel_l2.is_nan() && m.cosine.is_nan());
        assert_eq!(metrics(&[1.0], &[f64::INFINITY]).max_abs, f64::INFINITY);
        assert_eq!(serde_json::to_value(m).unwrap()["rms"], serde_json::Value::Null);
    }

    #[test]
    fn parts_add_up() {
        let a: Vec<f64> = (0..50_000).map(|i| (i as f64).sin()).collect();
        let b: Vec<f64> = a.iter().map(|x| x * 1.001 + 1e-4).collect();
        let whole = metrics(&a, &b);
        let mut sums = Accumulator::default();
        for (a, b) in a.chunks(CHUNK).zip(b.chunks(CHUNK)) {
            let tensor = |v: &[f64]| Tensor::from_slice(v, v.len(), &Device::Cpu).unwrap();
            sums.add(&tensor(a), &tensor(b)).unwrap();
        }
        assert_eq!(sums.metrics(), whole);
        // The triangle inequality and its kin: 1 - cosine is at most rel_l2²/2 to first order.
        assert!(whole.cosine > 0.999_999 && whole.rel_l2 < 1.1e-3 && whole.rms <= whole.max_abs);
    }
}
