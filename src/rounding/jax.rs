//! JAX on the CPU, under jit: `jax.nn.gelu` of a half-precision type, rounding to it after every
//! operation.
//!
//! JAX 0.10.2, `jax/_src/nn/functions.py`, as XLA compiles it for x86-64 (jaxlib 0.10.2): each
//! operation in f32 and rounded, `tanh`, `erfc` and `exp` as polynomials with fused multiplications.
//! The coefficients are those of the LLVM code that XLA dumps.

use super::half_type::HalfType;
use super::real::SQRT_2_OVER_PI;
use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, LOG2_E};

/// `x·(0.5·(1 + tanh(√(2/π)·(x + 0.044715·x³))))`, rounded nine times.
pub(super) fn gelu_tanh(x: f32, dtype: HalfType) -> f32 {
    let (x, round) = (flush(x), |x| round(x, dtype));
    let cube = round(round(x * x) * x);
    let sum = round(x + round(round(0.044715) * cube));
    let inner = round(round(SQRT_2_OVER_PI) * sum);
    let cdf = round(0.5 * round(1.0 + round(tanh(inner))));
    round(x * cdf)
}

/// `(x/2)·erfc(-x·√½)`, rounded four times; erfc's argument only in f16, since XLA drops bf16's.
pub(super) fn gelu_exact(x: f32, dtype: HalfType) -> f32 {
    let (x, round) = (flush(x), |x| round(x, dtype));
    let z = -x * round(FRAC_1_SQRT_2);
    let z = if dtype == HalfType::F16 { round(z) } else { z };
    round(round(0.5 * x) * round(erfc(z)))
}

/// The product, still in f32.
pub(super) fn product(activation: f32, up: f32, dtype: HalfType) -> f32 {
    round(flush(activation) * flush(up), dtype)
}

fn round(x: f32, dtype: HalfType) -> f32 {
    flush(dtype.round(flush(x)))
}

/// XLA computes with subnormal f32 taken for 0. bf16 has the same subnormal numbers, while all of
/// f16 is normal in f32.
fn flush(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

/// The sum of coefficients times powers of x, highest power first.
fn polynomial(x: f32, coefficients: &[f32]) -> f32 {
    coefficients.iter().fold(0.0, |sum, &coefficient| sum.mul_add(x, coefficient))
}

/// A quotient of polynomials within ±8, beyond which it is ±1 all but for the last bits.
fn tanh(x: f32) -> f32 {
    const LIMIT: f32 = 7.998_811_7;
    const NUMERATOR: [f32; 7] = [
        -2.760_768_4e-16,
        2.000_188e-13,
        -8.604_672e-11,
        5.122_297_3e-8,
        1.485_722_35e-5,
        6.372_619_5e-4,
        4.893_524_6e-3,
    ];
    const DENOMINATOR: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_7e-3, 4.893_525e-3];
    if x.abs() < 4e-4 {
        return x;
    }
    if x.abs() >= 20.0 {
        return 1f32.copysign(x);
    }
    let x = x.clamp(-LIMIT, LIMIT);
    x * polynomial(x * x, &NUMERATOR) / polynomial(x * x, &DENOMINATOR)
}

/// Around 0 by erf's series, beyond by Cephes' `e^(-z²)/|z|` times a polynomial in `1/z²`.
fn erfc(z: f32) -> f32 {
    const ERF: [f32; 7] = [
        7.853_861_5e-5,
        -8.010_193_7e-4,
        5.188_327_7e-3,
        -2.685_381_3e-2,
        0.112_835_854,
        -0.376_126_26,
        FRAC_2_SQRT_PI,
    ];
    if z.abs() < 1.0 {
        return (-z).mul_add(polynomial(z * z, &ERF), 1.0);
    }
    let tail = erfc_tail(z.abs());
    if z < 0.0 { 2.0 - tail } else { tail }
}

/// erfc of z ≥ 1.
fn erfc_tail(z: f32) -> f32 {
    const BELOW_2: [f32; 9] = [
        2.326_82e-2,
        -0.138_703_94,
        0.368_742_47,
        -0.582_473_3,
        0.621_000_47,
        -0.494_451_52,
        0.340_488,
        -0.274_112_7,
        0.563_825_96,
    ];
    const FROM_2: [f32; 8] = [
        -10.477_664,
        12.977_2,
        -7.495_518_7,
        2.921_019,
        -1.015_265_2,
        0.421_846_33,
        -0.282_076_75,
        0.564_189_5,
    ];
    /// The logarithm of the largest f32.
    const LN_MAX: f32 = 88.722_84;
    let square = z * z;
    if square > LN_MAX {
        return 0.0;
    }
    let inverse = 1.0 / square;
    let sum = polynomial(inverse, if z < 2.0 { &BELOW_2 } else { &FROM_2 });
    exp(-square) * (1.0 / z) * sum
}

/// Cephes' `expf`.
fn exp(x: f32) -> f32 {
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const SERIES: [f32; 6] =
        [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5];
    let x = x.clamp(-87.8, 88.8);
    let n = x.mul_add(LOG2_E, 0.5).floor().clamp(-127.0, 127.0);
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, x));
    let sum = 1.0 + polynomial(r, &SERIES).mul_add(r * r, r);
    // 2^-127 would be subnormal: by the bits of the exponent it is 0.
    sum * f32::from_bits(((n as i32 + 127) as u32) << 23)
}
