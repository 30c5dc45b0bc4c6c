//! Numbers of twice f64's precision, as unevaluated sums of two f64, several side by side.
//!
//! Dekker 1971 and Knuth's TAOCP 4.2.2, with fused multiplications: Joldes, Muller and Popescu 2017,
//! <https://doi.org/10.1145/3121432>, algorithms 6 (sum), 12 (product) and 17 (quotient), whose relative
//! errors are below 2^-101.

use super::precision::two_sum;
use std::array::from_fn;
use std::ops::{Add, Div, Mul, Neg, Sub};

/// `L` numbers, each of them `hi + lo` with `|lo|` at most half an ULP of `hi`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DoubleDouble<const L: usize> {
    /// The sums, rounded to f64.
    pub hi: [f64; L],
    /// What rounding took away.
    pub lo: [f64; L],
}

impl<const L: usize> DoubleDouble<L> {
    /// One number, `hi + lo`, in every place.
    #[inline(always)]
    pub(super) fn all(hi: f64, lo: f64) -> Self {
        Self { hi: [hi; L], lo: [lo; L] }
    }

    /// Numbers of f64, exactly.
    #[inline(always)]
    pub fn from_f64(hi: [f64; L]) -> Self {
        Self { hi, lo: [0.0; L] }
    }

    #[inline(always)]
    fn each(f: impl Fn(usize) -> (f64, f64)) -> Self {
        let mut all = Self::all(0.0, 0.0);
        for i in 0..L {
            (all.hi[i], all.lo[i]) = f(i);
        }
        all
    }

    /// Every number times a power of two of its own.
    #[inline(always)]
    pub(super) fn times_power_of_two(self, power: [f64; L]) -> Self {
        Self::each(|i| (self.hi[i] * power[i], self.lo[i] * power[i]))
    }

    /// The first where the condition holds, else the second.
    #[inline(always)]
    pub(super) fn choose(condition: [bool; L], a: Self, b: Self) -> Self {
        Self::each(|i| if condition[i] { (a.hi[i], a.lo[i]) } else { (b.hi[i], b.lo[i]) })
    }

    /// The square root of one number.
    pub(super) fn sqrt(self) -> Self {
        let root = Self::from_f64(self.hi.map(f64::sqrt));
        // One step of Newton's method doubles the digits.
        root + (self - root * root) / (root + root)
    }

    /// One of the numbers.
    pub(super) fn get(self, i: usize) -> DoubleDouble<1> {
        DoubleDouble { hi: [self.hi[i]], lo: [self.lo[i]] }
    }
}

impl DoubleDouble<1> {
    /// One number in every place.
    #[inline(always)]
    pub(super) fn splat<const L: usize>(self) -> DoubleDouble<L> {
        DoubleDouble::all(self.hi[0], self.lo[0])
    }

    /// How far `y` is from the number, rounded to f64 only at the end.
    pub fn distance(self, y: f64) -> f64 {
        ((y - self.hi[0]) - self.lo[0]).abs()
    }
}

/// `a + b`, exactly, for |a| ≥ |b|.
#[inline(always)]
fn fast_two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    (sum, b - (sum - a))
}

impl<const L: usize> Add for DoubleDouble<L> {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self::each(
            #[inline(always)]
            |i| {
                let (hi, hi_error) = two_sum(self.hi[i], other.hi[i]);
                let (lo, lo_error) = two_sum(self.lo[i], other.lo[i]);
                let (hi, rest) = fast_two_sum(hi, hi_error + lo);
                fast_two_sum(hi, rest + lo_error)
            },
        )
    }
}

impl<const L: usize> Neg for DoubleDouble<L> {
    type Output = Self;
    #[inline(always)]
    fn neg(self) -> Self {
        Self::each(|i| (-self.hi[i], -self.lo[i]))
    }
}

impl<const L: usize> Sub for DoubleDouble<L> {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl<const L: usize> Mul for DoubleDouble<L> {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self::each(
            #[inline(always)]
            |i| {
                let hi = self.hi[i] * other.hi[i];
                let error = self.hi[i].mul_add(other.hi[i], -hi);
                let low = self.lo[i] * other.lo[i];
                let cross = self.lo[i].mul_add(other.hi[i], self.hi[i].mul_add(other.lo[i], low));
                fast_two_sum(hi, error + cross)
            },
        )
    }
}

impl<const L: usize> Div for DoubleDouble<L> {
    type Output = Self;
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        let first = Self::from_f64(from_fn(|i| self.hi[i] / other.hi[i]));
        let rest = self - other * first;
        let second = Self::from_f64(from_fn(|i| rest.hi[i] / other.hi[i]));
        first + second
    }
}
