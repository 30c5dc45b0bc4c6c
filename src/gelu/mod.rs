//! GELU in its two forms: formulas and names. No tensors here.

pub mod exact;
pub(crate) mod logistic;
mod real;
pub mod tanh;

pub use real::Real;

use crate::error::UnknownActivation;
use std::{fmt, str::FromStr};

/// The switch: which of its two functions "GELU" means.
///
/// They differ by at most 4.73e-4, near |x| = 2.70, and their derivatives by at most 8.7e-4,
/// near |x| = 2.02. Gemma was trained with [`Gelu::Tanh`].
///
/// Parsing accepts what each framework calls them; printing gives `exact` or `tanh`.
///
/// ```
/// use gemma_mlp::Gelu;
/// assert_eq!("gelu_pytorch_tanh".parse::<Gelu>()?, Gelu::Tanh);
/// assert_eq!("approximate=False".parse::<Gelu>()?, Gelu::Exact);
/// assert_eq!(Gelu::Exact.huggingface_name(), "gelu");
/// # Ok::<(), gemma_mlp::UnknownActivation>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gelu {
    /// `x·Φ(x)`, through the error function.
    Exact,
    /// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
    Tanh,
}

impl Gelu {
    /// Both forms.
    pub const ALL: [Self; 2] = [Self::Exact, Self::Tanh];

    /// The names that are accepted, with what each of them means.
    ///
    /// Beside our own: transformers' `hidden_act`, PyTorch's `approximate=`, JAX's and Keras's
    /// `approximate=`. transformers' `gelu_new`, `gelu_fast` and `gelu_accurate` are the same tanh
    /// formula, written out (`transformers/activations.py`).
    pub const NAMES: [(&'static str, Self); 14] = [
        ("exact", Self::Exact),
        ("tanh", Self::Tanh),
        ("gelu", Self::Exact),
        ("gelu_python", Self::Exact),
        ("gelu_pytorch_tanh", Self::Tanh),
        ("gelu_python_tanh", Self::Tanh),
        ("gelu_accurate", Self::Tanh),
        ("gelu_new", Self::Tanh),
        ("gelu_fast", Self::Tanh),
        ("none", Self::Exact),
        ("approximate=none", Self::Exact),
        ("approximate=tanh", Self::Tanh),
        ("approximate=false", Self::Exact),
        ("approximate=true", Self::Tanh),
    ];

    /// Our own name, which [`fmt::Display`] prints too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Tanh => "tanh",
        }
    }

    /// The value of transformers' `hidden_act` and `hidden_activation`.
    pub fn huggingface_name(self) -> &'static str {
        match self {
            Self::Exact => "gelu",
            Self::Tanh => "gelu_pytorch_tanh",
        }
    }

    /// The argument of PyTorch's `torch.nn.functional.gelu(x, approximate=…)`.
    pub fn pytorch_name(self) -> &'static str {
        match self {
            Self::Exact => "none",
            Self::Tanh => "tanh",
        }
    }

    /// The argument of `jax.nn.gelu(x, approximate=…)` and of `keras.activations.gelu`.
    pub fn jax_approximate(self) -> bool {
        self == Self::Tanh
    }
}

impl fmt::Display for Gelu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Gelu {
    type Err = UnknownActivation;

    /// Reads any of [`Gelu::NAMES`], in any case, with or without quotes and spaces.
    fn from_str(name: &str) -> Result<Self, UnknownActivation> {
        let plain = plain(name);
        Self::NAMES
            .iter()
            .find(|(accepted, _)| *accepted == plain)
            .map(|&(_, gelu)| gelu)
            .ok_or_else(|| UnknownActivation::new(name, Self::NAMES.map(|(n, _)| n)))
    }
}

/// A name as it is compared: lower case, without spaces and quotes.
pub(crate) fn plain(name: &str) -> String {
    name.chars()
        .filter(|c| !c.is_whitespace() && !matches!(c, '"' | '\''))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_framework_name_is_read_and_printed_back() {
        for gelu in Gelu::ALL {
            for name in [gelu.name(), gelu.huggingface_name(), gelu.pytorch_name()] {
                assert_eq!(name.parse(), Ok(gelu), "{name}");
            }
            let jax = format!("approximate={}", gelu.jax_approximate());
            assert_eq!(jax.parse(), Ok(gelu), "{jax}");
            assert_eq!(gelu.to_string().parse(), Ok(gelu));
        }
        assert_eq!("approximate=\"none\"".parse(), Ok(Gelu::Exact));
        assert_eq!(" GELU_New ".parse(), Ok(Gelu::Tanh));
    }

    #[test]
    fn an_unknown_name_lists_the_accepted_ones() {
        let message = "swish".parse::<Gelu>().unwrap_err().to_string();
        for (name, _) in Gelu::NAMES {
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn limits_and_nan() {
        fn check<T: Real + std::fmt::Debug>(tiny: T) {
            let (zero, one, inf) = (T::of(0.0), T::of(1.0), T::INFINITY);
            for f in [exact::value_and_derivative::<T>, tanh::value_and_derivative::<T>] {
                assert_eq!(f(inf), (inf, one));
                assert_eq!(f(-inf), (zero, zero));
                assert_eq!(f(T::of(1e30)), (T::of(1e30), one));
                assert_eq!(f(T::of(-1e30)), (zero, zero));
                assert_eq!(f(zero), (zero, T::of(0.5)));
                assert_eq!(f(tiny).1, T::of(0.5));
                let (y, dy) = f(inf - inf);
                #[allow(clippy::eq_op)]
                {
                    assert!(y != y && dy != dy, "NaN is not lost");
                }
            }
        }
        check::<f32>(f32::MIN_POSITIVE);
        check::<f64>(f64::MIN_POSITIVE);
        assert!(exact::value(f64::NEG_INFINITY).is_sign_negative());
        assert!(tanh::value(f64::NEG_INFINITY).is_sign_negative());
    }

    /// mpmath, 40 digits: x·Φ(x) and the tanh form at points where `1 + erf` has no digit left.
    #[test]
    fn tails_keep_their_digits() {
        for (x, exact, tanh) in [
            (-8.0, -4.976_768_459_417_427e-15, -3.107_782_937_501_111e-21),
            (-3.0, -0.004_049_694_094_890_284, -0.003_637_392_081_773_019),
            (2.699, 2.689_614_473_602_791, 2.690_087_709_120_743),
        ] {
            let close = |got: f64, want: f64, tol: f64| (got / want - 1.0).abs() < tol;
            assert!(close(exact::value(x), exact, 1e-14), "{} {exact}", exact::value(x));
            assert!(close(tanh::value(x), tanh, 1e-13), "{} {tanh}", tanh::value(x));
            assert!(close(exact::value(x as f32) as f64, exact, 1e-5));
            assert!(close(tanh::value(x as f32) as f64, tanh, 1e-5));
        }
    }

    #[test]
    fn value_alone_is_the_value_of_the_pair() {
        for i in -4000..4000 {
            let x = i as f32 * 0.01;
            assert_eq!(exact::value(x), exact::value_and_derivative(x).0);
            assert_eq!(tanh::value(x), tanh::value_and_derivative(x).0);
        }
    }

    /// The figures that the documentation of [`Gelu`] states.
    #[test]
    fn largest_differences() {
        let grid = || (0..2_000_000).map(|i| i as f64 * 5e-6);
        let max = |f: &dyn Fn(f64) -> f64| {
            grid().map(|x| (f(x).abs(), x)).fold((0.0, 0.0), |a, b| if b.0 > a.0 { b } else { a })
        };
        let (value, at) = max(&|x| exact::value(x) - tanh::value(x));
        assert!((value - 4.732e-4).abs() < 1e-7 && (at - 2.699).abs() < 1e-3, "{value} at {at}");
        let d = |x: f64| exact::value_and_derivative(x).1 - tanh::value_and_derivative(x).1;
        let (value, at) = max(&d);
        assert!((value - 8.68e-4).abs() < 1e-6 && (at - 2.02).abs() < 1e-2, "{value} at {at}");
    }
}
