//! How far a computed GELU is from the truth, in units in the last place of its type.
//!
//! One harness for everybody: our kernels, candle's operations, and PyTorch's and JAX's results that
//! come in as numbers.

use super::Gelu;
use super::double_double::DoubleDouble;
use super::truth::truth;
use crate::kernels::exp::vectorized;
use half::{bf16, f16};
use std::fmt;
use std::str::FromStr;

/// GELU in either form, or its derivative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Function {
    /// Which GELU.
    pub gelu: Gelu,
    /// Its derivative instead of itself.
    pub derivative: bool,
}

impl Function {
    /// Both forms, then the derivatives of both.
    pub const ALL: &'static [Self] = &[
        Self { gelu: Gelu::Exact, derivative: false },
        Self { gelu: Gelu::Tanh, derivative: false },
        Self { gelu: Gelu::Exact, derivative: true },
        Self { gelu: Gelu::Tanh, derivative: true },
    ];

    /// Whether this is a derivative that passes through its zero at x: below [`NEAR_ZERO`] there,
    /// where relative errors mean nothing.
    pub fn is_near_zero(self, x: f64, value: f64) -> bool {
        self.derivative && (-1.0..-0.5).contains(&x) && value.abs() < NEAR_ZERO
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.gelu, if self.derivative { "'" } else { "" })
    }
}

impl FromStr for Function {
    type Err = String;

    /// Reads `exact`, `tanh`, `exact'` or `tanh'`.
    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|function| function.to_string() == name);
        found
            .copied()
            .ok_or_else(|| format!("no function is called '{name}': exact, tanh, exact' or tanh'"))
    }
}

/// A type whose numbers are measured.
pub trait Measured: Copy {
    /// Its name.
    const NAME: &'static str;
    /// Bits of the significand, the hidden one included.
    const DIGITS: i32;
    /// The exponent of the least normal number.
    const LEAST_EXPONENT: i32;
    /// The number, exactly.
    fn wide(self) -> f64;
}

macro_rules! measured {
    ($t:ty, $name:literal, $digits:literal, $least:literal) => {
        impl Measured for $t {
            const NAME: &'static str = $name;
            const DIGITS: i32 = $digits;
            const LEAST_EXPONENT: i32 = $least;
            #[inline(always)]
            fn wide(self) -> f64 {
                self.into()
            }
        }
    };
}

measured!(bf16, "bf16", 8, -126);
measured!(f16, "f16", 11, -14);
measured!(f32, "f32", 24, -126);
measured!(f64, "f64", 53, -1022);

/// The largest errors among the inputs seen.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Errors {
    /// Finite inputs.
    pub inputs: u64,
    /// The largest error in ULPs, that is in steps of the type at the true value (which has to be
    /// one step at least where the type is subnormal), the derivative's zero apart.
    pub ulp: f64,
    /// The input of that.
    pub ulp_at: f64,
    /// The largest absolute error where the derivative is below [`NEAR_ZERO`] on its way through
    /// zero, x from about -0.87 to -0.65.
    pub zero: f64,
    /// The input of that.
    pub zero_at: f64,
    /// Inputs whose result is not the nearest number of the type.
    pub misrounded: u64,
    /// Finite inputs with an infinite result or none.
    pub not_finite: u64,
}

impl Errors {
    /// The largest errors among the inputs of two measurements. Of two equal errors the first stays.
    pub fn and(self, other: Self) -> Self {
        let mut both = if other.ulp > self.ulp {
            Self { ulp: other.ulp, ulp_at: other.ulp_at, ..self }
        } else {
            self
        };
        if other.zero > self.zero {
            (both.zero, both.zero_at) = (other.zero, other.zero_at);
        }
        both.inputs += other.inputs;
        both.misrounded += other.misrounded;
        both.not_finite += other.not_finite;
        both
    }
}

/// Where the derivative is smaller than this around its zero (at x = -0.7518, tanh -0.7525), its error
/// is taken absolutely: relative to zero every error is infinite.
pub const NEAR_ZERO: f64 = 0.0625;

/// Arguments whose truth is computed side by side.
const LANES: usize = 8;

/// The errors of `y = function(x)`, in ULP. Infinite and NaN inputs are passed over.
///
/// # Panics
/// If the slices differ in length.
pub fn measure<T: Measured>(function: Function, x: &[T], y: &[T]) -> Errors {
    assert_eq!(x.len(), y.len(), "slices of one length");
    let mut errors = Errors::default();
    for (x, y) in x.chunks(LANES).zip(y.chunks(LANES)) {
        let mut lanes = [0.0; LANES];
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane = if x.wide().is_finite() { x.wide() } else { 0.0 };
        }
        let true_values = vectorized(
            #[inline(always)]
            || truth(function.gelu, lanes),
        );
        let true_values =
            if function.derivative { true_values.derivative } else { true_values.value };
        for (i, (x, y)) in x.iter().zip(y).enumerate() {
            if x.wide().is_finite() {
                errors = errors.and(error::<T>(function, x.wide(), y.wide(), true_values.get(i)));
            }
        }
    }
    errors
}

/// The error of one result.
fn error<T: Measured>(function: Function, x: f64, y: f64, truth: DoubleDouble<1>) -> Errors {
    if !y.is_finite() {
        return Errors { inputs: 1, misrounded: 1, not_finite: 1, ..Errors::default() };
    }
    let (distance, step) = (truth.distance(y), ulp::<T>(truth.hi[0]));
    let near_zero = function.is_near_zero(x, truth.hi[0]);
    let (ulp, zero) = if near_zero { (0.0, distance) } else { (distance / step, 0.0) };
    let misrounded = u64::from(distance > 0.49 * step && !is_nearest::<T>(y, truth));
    Errors { inputs: 1, ulp, ulp_at: x, zero, zero_at: x, misrounded, not_finite: 0 }
}

/// The distance of the numbers of a type around x.
fn ulp<T: Measured>(x: f64) -> f64 {
    let exponent = (x.abs().to_bits() >> 52) as i32 - 1023;
    libm::ldexp(1.0, exponent.max(T::LEAST_EXPONENT) - (T::DIGITS - 1))
}

/// Whether no other number of the type is nearer: below a power of two the numbers are closer.
fn is_nearest<T: Measured>(y: f64, truth: DoubleDouble<1>) -> bool {
    let step = ulp::<T>(y);
    let power_of_two = y.to_bits() << 12 == 0;
    let inward = if power_of_two { 0.5 * step } else { step };
    let inward = inward.max(libm::ldexp(1.0, T::LEAST_EXPONENT - (T::DIGITS - 1)));
    let sign = y.signum();
    let middle = |away: f64| (y + sign * away / 2.0) - truth.hi[0] - truth.lo[0];
    sign * middle(step) >= 0.0 && sign * middle(-inward) <= 0.0
}
