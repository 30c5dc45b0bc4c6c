//! The two GELUs and their derivatives beyond doubt: in double-double arithmetic, from series and
//! continued fractions out of textbooks, sharing nothing with the kernels but the definitions.
//!
//! Relative error below 2^-70 wherever the function is not about to vanish (`scripts/check_truth.py`
//! compares with mpmath), absolute error below 2^-100 at the derivatives' zeros. Slow, and meant to
//! judge what is fast.

use super::Gelu;
use super::double_double::DoubleDouble;
use std::array::from_fn;
use std::sync::LazyLock;

/// A function's value and derivative at `L` arguments.
#[derive(Debug, Clone, Copy)]
pub struct Truth<const L: usize> {
    /// `f(x)`
    pub value: DoubleDouble<L>,
    /// `f'(x)`
    pub derivative: DoubleDouble<L>,
}

/// `f(x)` and `f'(x)` for finite arguments, side by side. Below about 1e-290 they are 0.
#[inline(always)]
pub fn truth<const L: usize>(gelu: Gelu, x: [f64; L]) -> Truth<L> {
    // Farther out, f64 and double-double know nothing but the limits.
    let z = from_fn(|i| x[i].abs().min(50.0));
    let (tail, slope) = match gelu {
        _ if z.iter().all(|&z| z < 1e-12) => near_0(z),
        _ if z.iter().all(|&z| z == 50.0) => {
            (DoubleDouble::all(0.0, 0.0), DoubleDouble::all(0.0, 0.0))
        }
        Gelu::Exact => exact(z),
        Gelu::Tanh => tanh(z),
    };
    both_sides(x, tail, slope)
}

/// `x·σ(s·x)` and its derivative for finite arguments: SiLU for s = 1. As exact as [`truth`].
#[inline(always)]
pub fn logistic_truth<const L: usize>(s: f64, x: [f64; L]) -> Truth<L> {
    let z = DoubleDouble::from_f64(x.map(|x| x.abs().min(1000.0)));
    let one = DoubleDouble::all(1.0, 0.0);
    let argument = z * DoubleDouble::all(s, 0.0);
    let e = exp(-argument);
    let upper = one / (one + e);
    both_sides(x, e * upper, e * upper * (one - argument * upper))
}

/// f(x) = x·C(x) with C(x) + C(-x) = 1: on the left as it is, on the right what is missing.
/// `tail` is `C(-|x|)`, `slope` `f'(-|x|)`.
#[inline(always)]
fn both_sides<const L: usize>(
    x: [f64; L],
    tail: DoubleDouble<L>,
    slope: DoubleDouble<L>,
) -> Truth<L> {
    let negative = from_fn(|i| x[i] < 0.0);
    let left = DoubleDouble::from_f64(x.map(f64::abs)) * tail;
    Truth {
        value: DoubleDouble::choose(negative, -left, DoubleDouble::from_f64(x) - left),
        derivative: DoubleDouble::choose(negative, slope, DoubleDouble::all(1.0, 0.0) - slope),
    }
}

/// Both functions are `x/2 + x²/√(2π) + O(x⁴)`.
#[inline(always)]
fn near_0<const L: usize>(z: [f64; L]) -> TailAndSlope<L> {
    let half = DoubleDouble::all(0.5, 0.0);
    let linear = DoubleDouble::from_f64(z) * CONSTANTS.density_at_0.splat();
    (half - linear, half - linear - linear)
}

/// `C(-z)` and `f'(-z)`.
type TailAndSlope<const L: usize> = (DoubleDouble<L>, DoubleDouble<L>);

/// Constants, computed once.
struct Constants {
    ln_2: DoubleDouble<1>,
    /// 1/√(2π)
    density_at_0: DoubleDouble<1>,
    /// 2·√(2/π)
    linear: DoubleDouble<1>,
    /// 2·√(2/π)·0.044715
    cubic: DoubleDouble<1>,
    /// 1/n!
    inverse_factorials: Vec<DoubleDouble<1>>,
    /// 1/(2n + 1)
    inverse_odds: Vec<DoubleDouble<1>>,
}

static CONSTANTS: LazyLock<Constants> = LazyLock::new(|| {
    let number = |x: f64| DoubleDouble::<1>::all(x, 0.0);
    // The next 53 bits of π and of ln 2 after those of f64.
    let pi = DoubleDouble::all(std::f64::consts::PI, 1.224_646_799_147_353_2e-16);
    let ln_2 = DoubleDouble::all(std::f64::consts::LN_2, 2.319_046_813_846_299_6e-17);
    let linear = number(2.0) * (number(2.0) / pi).sqrt();
    let mut inverse_factorials = vec![number(1.0)];
    for n in 1..30 {
        inverse_factorials.push(inverse_factorials[n - 1] / number(n as f64));
    }
    Constants {
        ln_2,
        density_at_0: number(1.0) / (number(2.0) * pi).sqrt(),
        linear,
        cubic: linear * (number(44_715.0) / number(1e6)),
        inverse_factorials,
        inverse_odds: (0..200).map(|n| number(1.0) / number(f64::from(2 * n + 1))).collect(),
    }
});

/// `Φ(-z)` and `Φ(-z) - z·φ(z)`.
#[inline(always)]
fn exact<const L: usize>(z: [f64; L]) -> TailAndSlope<L> {
    /// Here the series still has 76 of its 106 bits, and the fraction needs few terms already.
    const SERIES: f64 = 6.0;
    let wide = DoubleDouble::from_f64(z);
    let square = wide * wide;
    let half = DoubleDouble::all(-0.5, 0.0);
    let density = exp(square * half) * CONSTANTS.density_at_0.splat();
    let near = z.map(|z| z < SERIES);
    let (mut series, mut far) = (half, half);
    if near.contains(&true) {
        let largest = z.into_iter().filter(|&z| z < SERIES).fold(0.0, f64::max);
        series = -half - density * wide * odd_series(square, largest);
    }
    if near.contains(&false) {
        far = density * fraction(wide);
    }
    let tail = DoubleDouble::choose(near, series, far);
    (tail, tail - wide * density)
}

/// `Σ z^2n / (1·3·5·…·(2n + 1))`: `(Φ(z) - 1/2)/(z·φ(z))`
/// (Abramowitz and Stegun 26.2.11), with as many terms as the largest z needs.
#[inline(always)]
fn odd_series<const L: usize>(square: DoubleDouble<L>, largest: f64) -> DoubleDouble<L> {
    let (mut terms, mut term) = (1, 1.0);
    while term > 1e-36 && terms < CONSTANTS.inverse_odds.len() - 1 {
        term *= largest * largest / f64::from(2 * terms as u32 + 1);
        terms += 1;
    }
    let one = DoubleDouble::all(1.0, 0.0);
    let mut sum = one;
    for inverse in CONSTANTS.inverse_odds[1..terms].iter().rev() {
        sum = one + square * inverse.splat() * sum;
    }
    sum
}

/// `1/(z + 1/(z + 2/(z + 3/…)))`: `Φ(-z)/φ(z)` (Abramowitz and Stegun 26.2.14).
#[inline(always)]
fn fraction<const L: usize>(z: DoubleDouble<L>) -> DoubleDouble<L> {
    let mut sum = z;
    for n in (1..60).rev() {
        sum = z + DoubleDouble::all(f64::from(n), 0.0) / sum;
    }
    DoubleDouble::all(1.0, 0.0) / sum
}

/// `σ(-2u)` and the slope on the left, `2u = z·(linear + cubic·z²)`.
#[inline(always)]
fn tanh<const L: usize>(z: [f64; L]) -> TailAndSlope<L> {
    let (linear, cubic) = (CONSTANTS.linear.splat(), CONSTANTS.cubic.splat());
    let wide = DoubleDouble::from_f64(z);
    let cubic = cubic * wide * wide;
    let e = exp(-(wide * (linear + cubic)));
    let one = DoubleDouble::all(1.0, 0.0);
    let upper = one / (one + e);
    let twice_du = linear + DoubleDouble::all(3.0, 0.0) * cubic;
    (e * upper, e * upper * (one - wide * twice_du * upper))
}

/// `e^x` for x ≤ 0: Taylor's series after the powers of two are taken out. Below 2^-1000 it is 0.
#[inline(always)]
fn exp<const L: usize>(x: DoubleDouble<L>) -> DoubleDouble<L> {
    let k: [f64; L] =
        from_fn(|i| (x.hi[i].max(-1000.0) * std::f64::consts::LOG2_E).round_ties_even());
    let r = x - CONSTANTS.ln_2.splat() * DoubleDouble::from_f64(k);
    let mut sum = DoubleDouble::all(0.0, 0.0);
    for inverse in CONSTANTS.inverse_factorials.iter().rev() {
        sum = inverse.splat() + r * sum;
    }
    let power =
        k.map(|k| if k < -1000.0 { 0.0 } else { f64::from_bits(((k + 1023.0) as u64) << 52) });
    sum.times_power_of_two(power)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mpmath, 40 digits: values and derivatives where `1 + erf` has few digits left or none.
    #[test]
    fn points_of_mpmath() {
        for (gelu, x, expected) in [
            (Gelu::Exact, -8.0, -4.976_768_459_417_427e-15),
            (Gelu::Tanh, -8.0, -3.107_782_937_501_111e-21),
            (Gelu::Exact, -3.0, -0.004_049_694_094_890_284),
            (Gelu::Tanh, -3.0, -0.003_637_392_081_773_019),
            (Gelu::Exact, 2.699, 2.689_614_473_602_791),
            (Gelu::Tanh, 2.699, 2.690_087_709_120_743),
        ] {
            let got = truth(gelu, [x]).value.hi[0];
            assert!((got / expected - 1.0).abs() < 1e-15, "{gelu} {x}: {got:e} {expected:e}");
        }
    }

    /// SiLU at points of mpmath, and the slope 1.702.
    #[test]
    fn logistic_points_of_mpmath() {
        for (s, x, value, derivative) in [
            (1.0, -1.0, -0.268_941_421_369_995_1, 0.072_329_488_128_513_27),
            (1.0, 3.0, 2.857_722_380_467_299_7, 1.088_104_106_015_169_6),
            (1.702, -2.0, -0.064_341_376_855_791_86, -0.073_815_354_308_541_93),
        ] {
            let truth = logistic_truth(s, [x]);
            let (v, d) = (truth.value.hi[0], truth.derivative.hi[0]);
            assert!((v / value - 1.0).abs() < 4e-16, "{s} {x}: {v:e}");
            assert!((d / derivative - 1.0).abs() < 4e-16, "{s} {x}: {d:e}");
        }
    }

    /// Series and continued fraction are one function; lanes do not mix.
    #[test]
    fn both_halves_agree_where_they_meet() {
        let [below, above] = [-5.999_999_999_999_999, -6.0].map(|x| truth(Gelu::Exact, [x]));
        let expected = above.value.hi[0] + above.derivative.hi[0] * (6.0 - 5.999_999_999_999_999);
        assert!((below.value.hi[0] / expected - 1.0).abs() < 1e-15);
        let x = [-7.0, 0.3, -0.2, 5.0, -30.0, 1e-13, -1e-30, 60.0];
        for &gelu in Gelu::ALL {
            let together = truth(gelu, x);
            for (i, &x) in x.iter().enumerate() {
                let alone = truth(gelu, [x]);
                for (a, b) in
                    [(together.value, alone.value), (together.derivative, alone.derivative)]
                {
                    let (a, b) = (a.hi[i], b.hi[0]);
                    assert!(a == b || (a / b - 1.0).abs() < 1e-15, "{gelu} {x}: {a:e} {b:e}");
                }
            }
        }
    }
}
