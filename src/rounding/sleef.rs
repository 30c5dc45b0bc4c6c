//! SLEEF's `expf` and `tanhf` in f32, with which PyTorch's vectors compute.
//!
//! `Sleef_expf16_u10` and `Sleef_tanhf16_u10` in their variants with fused multiplications
//! (SLEEF 3.8, `src/libm/sleefsimdsp.c` and `src/libm/df.h`). Each is within 1 ULP, and where their last
//! bit decides, PyTorch's does: near -1, where `1 + tanh` cancels.

use std::f32::consts::LOG2_E;

/// ln 2 in two parts, of which the first has few enough bits that its small multiples are exact.
const LN_2_HIGH: f32 = 0.693_145_75;
const LN_2_LOW: f32 = 1.428_606_8e-6;

/// `e^x` for x up to 100.
pub(super) fn exp(x: f32) -> f32 {
    if x < -104.0 {
        return 0.0;
    }
    let q = (x * LOG2_E).round_ties_even();
    let s = q.mul_add(-LN_2_LOW, q.mul_add(-LN_2_HIGH, x));
    let mut u = 0.000_198_527_62_f32;
    for coefficient in [0.001_393_043_6, 0.008_333_361, 0.041_666_485, 0.166_666_67, 0.5] {
        u = u.mul_add(s, coefficient);
    }
    times_power_of_two(1.0 + (s * s).mul_add(u, s), q)
}

/// The hyperbolic tangent, `(d - 1/d) / (d + 1/d)` with `d = e^|x|` in two floats.
pub(super) fn tanh(x: f32) -> f32 {
    if x.abs() > 8.664_34 {
        return 1f32.copysign(x);
    }
    let d = Double::exp(x.abs());
    let e = d.reciprocal();
    let quotient = d.add(Double(-e.0, -e.1)).divide(d.add(e));
    (quotient.0 + quotient.1).copysign(x)
}

/// `x·2^exponent`, in two steps, so that neither factor leaves the range of f32.
fn times_power_of_two(x: f32, exponent: f32) -> f32 {
    let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    let exponent = exponent as i32;
    x * power(exponent >> 1) * power(exponent - (exponent >> 1))
}

/// A number as an unevaluated sum of two floats, the second far smaller.
#[derive(Clone, Copy)]
struct Double(f32, f32);

impl Double {
    /// `e^x`.
    fn exp(x: f32) -> Self {
        let q = (x * LOG2_E).round_ties_even();
        let s = Self(x, 0.0).add_float(q * -LN_2_HIGH).add_float(q * -LN_2_LOW);
        let mut u = 0.000_198_096_02_f32;
        for coefficient in [0.001_394_256_5, 0.008_333_457, 0.041_666_374] {
            u = u.mul_add(s.0, coefficient);
        }
        let t = s.times_float(u).add_float(0.166_666_66);
        let t = s.times(t).add_float(0.5);
        let t = s.add_any(s.square().times(t));
        let t = Self::one_plus(t);
        Self(times_power_of_two(t.0, q), times_power_of_two(t.1, q))
    }

    /// `self + y` for any order of their sizes.
    fn add_float(self, y: f32) -> Self {
        let s = self.0 + y;
        let v = s - self.0;
        Self(s, (self.0 - (s - v)) + (y - v) + self.1)
    }

    /// `self + y` for any order of their sizes.
    fn add_any(self, y: Self) -> Self {
        let s = self.0 + y.0;
        let v = s - self.0;
        Self(s, (self.0 - (s - v)) + (y.0 - v) + (self.1 + y.1))
    }

    /// `self + y` for |self| ≥ |y|.
    fn add(self, y: Self) -> Self {
        let s = self.0 + y.0;
        Self(s, (self.0 - s) + y.0 + self.1 + y.1)
    }

    fn one_plus(y: Self) -> Self {
        let s = 1.0 + y.0;
        Self(s, (1.0 - s) + y.0 + y.1)
    }

    fn times_float(self, y: f32) -> Self {
        let s = self.0 * y;
        Self(s, self.1.mul_add(y, self.0.mul_add(y, -s)))
    }

    fn times(self, y: Self) -> Self {
        let s = self.0 * y.0;
        Self(s, self.0.mul_add(y.1, self.1.mul_add(y.0, self.0.mul_add(y.0, -s))))
    }

    fn square(self) -> Self {
        let s = self.0 * self.0;
        Self(s, (self.0 + self.0).mul_add(self.1, self.0.mul_add(self.0, -s)))
    }

    fn reciprocal(self) -> Self {
        let s = 1.0 / self.0;
        Self(s, s * (-self.1).mul_add(s, (-self.0).mul_add(s, 1.0)))
    }

    fn divide(self, d: Self) -> Self {
        let t = 1.0 / d.0;
        let s = self.0 * t;
        let u = t.mul_add(self.0, -s);
        let v = (-d.1).mul_add(t, (-d.0).mul_add(t, 1.0));
        Self(s, s.mul_add(v, self.1.mul_add(t, u)))
    }
}
