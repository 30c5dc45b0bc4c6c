//! The activation of a gated block: GELU in either form, or what wrong ports and sibling
//! families use in its place.

use crate::error::UnknownActivation;
use crate::float::{BLOCK, Float, Wide, buffer};
use crate::gelu::{Gelu, exact, logistic, plain, tanh};
use std::{fmt, str::FromStr};

/// The function that the gate passes through.
///
/// Gemma uses [`Gelu::Tanh`]. SiLU and ReLU are here because other gated blocks use them and
/// because ports use them by mistake (candle's quantized Gemma 3 computes SiLU).
///
/// ```
/// use gemma_mlp::{Activation, Gelu};
/// assert_eq!("gelu_new".parse::<Activation>()?, Activation::Gelu(Gelu::Tanh));
/// assert_eq!("swish".parse::<Activation>()?, Activation::Silu);
/// # Ok::<(), gemma_mlp::UnknownActivation>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activation {
    /// GELU, exact or tanh.
    Gelu(Gelu),
    /// `x·σ(x)`, also called swish.
    Silu,
    /// `x·σ(1.702·x)`, the logistic approximation (Hendrycks and Gimpel 2016), transformers'
    /// `quick_gelu`.
    QuickGelu,
    /// `max(x, 0)`, with derivative 0 at 0 as in PyTorch and JAX.
    Relu,
}

impl Activation {
    /// [`Gelu::Exact`].
    pub const EXACT: Self = Self::Gelu(Gelu::Exact);
    /// [`Gelu::Tanh`], with which Gemma was trained.
    pub const TANH: Self = Self::Gelu(Gelu::Tanh);

    /// The names beyond [`Gelu::NAMES`].
    const OTHER_NAMES: [(&'static str, Self); 4] = [
        ("silu", Self::Silu),
        ("swish", Self::Silu),
        ("quick_gelu", Self::QuickGelu),
        ("relu", Self::Relu),
    ];

    /// Reads a name as transformers' `hidden_act` and `hidden_activation` use it.
    ///
    /// Narrower than parsing: in a config `tanh` would be the plain hyperbolic tangent.
    ///
    /// # Errors
    /// Any other name; the error lists the accepted ones.
    pub fn from_huggingface(name: &str) -> Result<Self, UnknownActivation> {
        let gelu = Gelu::NAMES.iter().map(|&(n, gelu)| (n, Self::Gelu(gelu)));
        let names = gelu.filter(|(n, _)| n.starts_with("gelu")).chain(Self::OTHER_NAMES);
        match names.clone().find(|(accepted, _)| *accepted == name) {
            Some((_, activation)) => Ok(activation),
            None => Err(UnknownActivation::new(name, names.map(|(n, _)| n))),
        }
    }

    /// Our own name, which [`fmt::Display`] prints too: `exact`, `tanh`, `silu`,
    /// `quick_gelu` or `relu`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gelu(gelu) => gelu.name(),
            Self::Silu => "silu",
            Self::QuickGelu => "quick_gelu",
            Self::Relu => "relu",
        }
    }

    /// Writes the activation of every `x` to `y`, which must be as long.
    ///
    /// GELU in both forms is correctly rounded in bf16 and f16, within 1 ULP in f32 and 4 in f64;
    /// `docs/numerics.md` has what was measured. Every element depends on its own argument only.
    pub fn values<T: Float>(self, x: &[T], y: &mut [T]) {
        in_blocks(x, y, |x, y| self.wide_values::<T>(x, y));
    }

    /// Writes the derivative at every `x` to `dy`, which must be as long; as exact as the values,
    /// but near its own zero, where its absolute error stays below 2^-34 in f32.
    pub fn derivatives<T: Float>(self, x: &[T], dy: &mut [T]) {
        in_blocks(x, dy, |x, dy| self.wide_derivatives::<T>(x, dy));
    }

    /// The values of widened numbers, before they are rounded to `T`.
    pub(crate) fn wide_values<T: Float>(self, x: &[T::Wide], y: &mut [T::Wide]) {
        match self {
            Self::Gelu(Gelu::Exact) => T::Wide::exact::<T::Precision>(x, y),
            Self::Gelu(Gelu::Tanh) => T::Wide::map(x, y, tanh::value::<T::Precision>),
            Self::Silu => T::Wide::map(x, y, |x| logistic::value::<T::Precision>(x, |z| (z, 0.0))),
            Self::QuickGelu => T::Wide::map(x, y, |x| logistic::value::<T::Precision>(x, quick)),
            Self::Relu => T::Wide::map(x, y, |x| if x <= 0.0 { 0.0 } else { x }),
        }
    }

    /// The derivatives at widened numbers, before they are rounded to `T`.
    pub(crate) fn wide_derivatives<T: Float>(self, x: &[T::Wide], dy: &mut [T::Wide]) {
        match self {
            Self::Gelu(Gelu::Exact) => T::Wide::map(x, dy, exact::derivative::<T::Precision>),
            Self::Gelu(Gelu::Tanh) => T::Wide::map(x, dy, tanh::derivative::<T::Precision>),
            Self::Silu => T::Wide::map(x, dy, |x| {
                logistic::derivative::<T::Precision>(x, |z| (z, 0.0), |_| (1.0, 0.0))
            }),
            Self::QuickGelu => T::Wide::map(x, dy, |x| {
                logistic::derivative::<T::Precision>(x, quick, |_| (QUICK, 0.0))
            }),
            // NaN is neither.
            Self::Relu => T::Wide::map(x, dy, |x| {
                if x > 0.0 {
                    1.0
                } else if x <= 0.0 {
                    0.0
                } else {
                    x
                }
            }),
        }
    }
}

/// The slope of the logistic approximation to GELU.
pub(crate) const QUICK: f64 = 1.702;

/// `1.702·z`, in two parts.
#[inline(always)]
fn quick(z: f64) -> (f64, f64) {
    let product = QUICK * z;
    (product, QUICK.mul_add(z, -product))
}

/// Widens, computes and rounds block by block.
fn in_blocks<T: Float>(x: &[T], y: &mut [T], f: impl Fn(&[T::Wide], &mut [T::Wide])) {
    assert_eq!(x.len(), y.len(), "slices of one length");
    for (x, y) in x.chunks(BLOCK).zip(y.chunks_mut(BLOCK)) {
        let (mut from, mut to) = (buffer::<T::Wide>(), buffer::<T::Wide>());
        let (from, to) = (&mut from[..x.len()], &mut to[..x.len()]);
        T::widen(x, from);
        f(from, to);
        T::round(to, y);
    }
}

impl From<Gelu> for Activation {
    fn from(gelu: Gelu) -> Self {
        Self::Gelu(gelu)
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Activation {
    type Err = UnknownActivation;

    /// Reads any of [`Gelu::NAMES`], `silu`, `swish`, `quick_gelu` or `relu`.
    fn from_str(name: &str) -> Result<Self, UnknownActivation> {
        let other = plain(name);
        match Self::OTHER_NAMES.iter().find(|(accepted, _)| *accepted == other) {
            Some(&(_, activation)) => Ok(activation),
            None => name
                .parse()
                .map(Self::Gelu)
                .map_err(|e: UnknownActivation| e.also_accepted(Self::OTHER_NAMES.map(|(n, _)| n))),
        }
    }
}

impl serde::Serialize for Activation {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for Activation {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["exact", "tanh", "silu", "quick_gelu", "relu"] {
            assert_eq!(name.parse::<Activation>().unwrap().to_string(), name);
        }
        let message = "mish".parse::<Activation>().unwrap_err().to_string();
        assert!(message.contains("gelu_pytorch_tanh") && message.contains("silu"), "{message}");
    }

    #[test]
    fn a_config_s_tanh_is_not_gelu() {
        assert_eq!(Activation::from_huggingface("gelu"), Ok(Activation::EXACT));
        assert_eq!(Activation::from_huggingface("gelu_fast"), Ok(Activation::TANH));
        for name in ["tanh", "none", "GELU", "mish"] {
            let message = Activation::from_huggingface(name).unwrap_err().to_string();
            assert!(
                message.contains("gelu_pytorch_tanh") && !message.contains("none,"),
                "{message}"
            );
        }
    }

    #[test]
    fn limits_of_silu_and_relu() {
        let x = [f64::NEG_INFINITY, -1e300, 0.0, 1e300, f64::INFINITY, f64::NAN];
        for activation in [Activation::Silu, Activation::QuickGelu, Activation::Relu] {
            let (mut y, mut dy) = ([7.0; 6], [7.0; 6]);
            activation.values(&x, &mut y);
            activation.derivatives(&x, &mut dy);
            assert_eq!(y[..5], [0.0, 0.0, 0.0, 1e300, f64::INFINITY], "{activation}");
            assert_eq!((dy[0], dy[1], dy[3], dy[4]), (0.0, 0.0, 1.0, 1.0), "{activation}");
            assert!(y[5].is_nan() && dy[5].is_nan(), "{activation}");
        }
    }
}
