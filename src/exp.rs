//! The exponential function of many numbers at once, for softmax.

use pulp::Arch;

/// `e^x` for finite x up to 709, within 1 ULP where the result is a normal number; below -708 it
/// is 0. NaN stays NaN.
///
/// Argument reduction to |r| ≤ ln 2 / 2 with ln 2 in two parts (Cody and Waite 1980), then the
/// Taylor polynomial of degree 13, whose first neglected term is below 5e-18. No fused
/// multiplication: the bits are those of any machine.
#[inline(always)]
pub(crate) fn exp(x: f64) -> f64 {
    /// 1.5·2^52: adding it rounds to an integer, which then stands in the low bits.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    const TAYLOR: [f64; 14] = {
        let mut inverse = [1.0; 14];
        let mut n = 1;
        while n < 14 {
            inverse[n] = inverse[n - 1] / n as f64;
            n += 1;
        }
        inverse
    };
    let shifted = x * std::f64::consts::LOG2_E + SHIFT;
    let k = shifted - SHIFT;
    let r = (x - k * LN_2_HIGH) - k * LN_2_LOW;
    let mut sum = TAYLOR[13];
    let mut n = 13;
    while n > 0 {
        n -= 1;
        sum = sum * r + TAYLOR[n];
    }
    let power = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x < -708.0 { 0.0 } else { sum * power }
}

/// Runs a loop with the widest vectors that the machine has: what is inlined into `f` is compiled
/// for each instruction set.
#[inline(always)]
pub(crate) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
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
