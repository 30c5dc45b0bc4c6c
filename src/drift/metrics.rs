//! The distance between two tensors.

use crate::error::Result;
use candle_core::{DType, Tensor};
use rayon::prelude::*;
use serde::Serialize;

/// How far `b` is from `a`. JSON shows a figure that is not finite as `null`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Metrics {
    /// The largest |b - a|.
    pub max_abs: f64,
    /// The root of the mean of (b - a)².
    pub rms: f64,
    /// ‖b - a‖ / ‖a‖; 0 if both norms are 0.
    pub rel_l2: f64,
    /// a·b / (‖a‖·‖b‖); 1 if the two are equal, zeros included.
    pub cosine: f64,
}

/// The sums that [`Metrics`] come from, in f64. Accumulators of parts of a tensor add up to that of
/// the whole.
#[derive(Debug, Clone, Copy, Default)]
pub struct Accumulator {
    count: usize,
    max_abs: f64,
    difference: f64,
    norm_a: f64,
    norm_b: f64,
    dot: f64,
}

/// Elements that are summed at a time, by one thread. The same for any number of threads, and so
/// are the bits of the sums.
const CHUNK: usize = 1 << 14;

impl Accumulator {
    /// Adds two tensors of one shape, of any floating-point dtypes.
    ///
    /// # Errors
    /// candle's, if the shapes differ or the device fails.
    pub fn add(&mut self, a: &Tensor, b: &Tensor) -> Result<()> {
        if a.shape() != b.shape() {
            return Err(candle_core::Error::ShapeMismatchBinaryOp {
                lhs: a.shape().clone(),
                rhs: b.shape().clone(),
                op: "drift",
            }
            .into());
        }
        let values = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
        let (a, b) = (values(a)?, values(b)?);
        let parts: Vec<Self> =
            a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)).map(|(a, b)| Self::of(a, b)).collect();
        parts.iter().for_each(|part| self.merge(part));
        Ok(())
    }

    /// Adds the sums of another part of the tensors.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.max_abs = max(self.max_abs, other.max_abs);
        self.difference += other.difference;
        self.norm_a += other.norm_a;
        self.norm_b += other.norm_b;
        self.dot += other.dot;
    }

    fn of(a: &[f64], b: &[f64]) -> Self {
        let mut sums = Self { count: a.len(), ..Self::default() };
        for (&a, &b) in a.iter().zip(b) {
            let d = b - a;
            sums.max_abs = max(sums.max_abs, d.abs());
            sums.difference += d * d;
            sums.norm_a += a * a;
            sums.norm_b += b * b;
            sums.dot += a * b;
        }
        sums
    }

    /// The figures of everything added so far; all 0 (cosine 1) if that is nothing.
    pub fn metrics(&self) -> Metrics {
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

/// The larger one, or NaN if either is: `f64::max` would hide it.
fn max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn metrics(a: &[f64], b: &[f64]) -> Metrics {
        let tensor = |v: &[f64]| Tensor::from_slice(v, v.len(), &Device::Cpu).unwrap();
        let mut sums = Accumulator::default();
        sums.add(&tensor(a), &tensor(b)).unwrap();
        sums.metrics()
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
            sums.merge(&Accumulator::of(a, b));
        }
        assert_eq!(sums.metrics(), whole);
        // The triangle inequality and its kin: 1 - cosine is at most rel_l2²/2 to first order.
        assert!(whole.cosine > 0.999_999 && whole.rel_l2 < 1.1e-3 && whole.rms <= whole.max_abs);
    }
}
