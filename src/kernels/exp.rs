//! The exponential function of many numbers at once, for softmax, and what GELU's is made of.

use pulp::Arch;

/// `e^x` for finite x up to 709, within 1 ULP where the result is a normal number; below -708 it
/// is 0. NaN stays NaN.
///
/// Argument reduction to |r| ≤ ln 2 / 2 with ln 2 in two parts (Cody and Waite 1980), then a
/// polynomial of degree 11 that interpolates `(e^r - 1 - r)/r²` at Chebyshev's nodes; its relative
/// error is below 2e-17. Multiplications are fused with additions where written so, on any machine,
/// and the bits are the same on all.
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    const POLYNOMIAL: [f64; 11] = [
        1.0,
        0.500_000_000_000_000_1,
        0.166_666_666_666_666_69,
        0.041_666_666_666_624_13,
        0.008_333_333_333_330_062,
        0.001_388_888_891_721_371_7,
        0.000_198_412_698_630_536_18,
        2.480_152_129_595_437_6e-5,
        2.755_726_845_999_706_4e-6,
        2.762_008_844_540_974_6e-7,
        2.510_038_549_551_032e-8,
    ];
    let (shifted, k) = exponent(x);
    let r = k.mul_add(-LN_2.1, k.mul_add(-LN_2.0, x));
    let sum = polynomial(&POLYNOMIAL, r).mul_add(r, 1.0);
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x < -708.0 { 0.0 } else { sum * power }
}

/// ln 2 in two parts, of which the first times an exponent is exact.
pub const LN_2: (f64, f64) = (6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10);

/// `x / ln 2` to the nearest integer: in the low bits of the first number, and as the second.
#[inline(always)]
pub fn exponent(x: f64) -> (f64, f64) {
    /// 1.5·2^52: what is added to it is rounded to an integer.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    let shifted = x.mul_add(std::f64::consts::LOG2_E, SHIFT);
    (shifted, shifted - SHIFT)
}

/// A polynomial by Horner's rule, its coefficients by rising powers.
#[inline(always)]
pub fn polynomial<const N: usize>(coefficients: &[f64; N], x: f64) -> f64 {
    let mut sum = coefficients[N - 1];
    let mut n = N - 1;
    while n > 0 {
        n -= 1;
        sum = sum.mul_add(x, coefficients[n]);
    }
    sum
}

/// Runs a loop with the widest vectors that the machine has: what is inlined into `f` is compiled
/// for each instruction set. `f` itself must be `#[inline(always)]`, or it is compiled for the
/// least of them, where a fused multiplication is a function call.
#[inline(always)]
pub fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_an_ulp() {
        for i in 0..200_000 {
            let x = -708.0 + f64::from(i) * (1416.0 / 200_000.0);
            let (ours, truth) = (exp(x), libm::exp(x));
            let ulp = f64::from_bits(truth.to_bits() + 1) - truth;
            assert!((ours - truth).abs() <= 1.5 * ulp, "{x}: {ours:e} {truth:e}");
        }
        assert_eq!((exp(0.0), exp(-0.0), exp(-1e9), exp(f64::NEG_INFINITY)), (1.0, 1.0, 0.0, 0.0));
        assert!(exp(f64::NAN).is_nan());
    }
}
