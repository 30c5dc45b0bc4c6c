//! The activation of a gated block: GELU in either form, or what wrong ports and sibling
//! families use in its place.
//!
//! From the enum to the arithmetic: [`Activation::definition`] has everything about an activation,
//! as its own file says it (`silu.rs`, `kernels/gelu/tanh.rs` and so on); `pointwise` makes loops over
//! slices of its formula, and [`Float`] says how a type of numbers runs them and rounds.
//!
//! A new activation is a file here, a variant, and a line in the list.

mod definition;
mod pointwise;
mod quick_gelu;
mod relu;
mod silu;

pub use pointwise::Pointwise;

use crate::error::UnknownActivation;
use crate::kernels::gelu::{Exact, Gelu, Tanh, Truth, from_file, plain};
use crate::kernels::number::Float;
use candle_core::{Result as CandleResult, Tensor};
use definition::Definition;
use quick_gelu::QuickGelu;
use relu::Relu;
use silu::Silu;
use std::{fmt, str::FromStr};

/// The function that the gate passes through.
///
/// Gemma uses [`Gelu::Tanh`]. SiLU and ReLU are here because other gated blocks use them and
/// because ports use them by mistake (candle's quantized Gemma 3 computes SiLU).
///
/// In files it is a string, [`Self::name`]. Reading accepts transformers' names as well, and refuses
/// the arguments of PyTorch's and JAX's functions: `none` in a file might mean no activation at all.
///
/// ```
/// use gemma_mlp::{Activation, Gelu};
/// assert_eq!("gelu_new".parse::<Activation>()?, Activation::Gelu(Gelu::Tanh));
/// assert_eq!("swish".parse::<Activation>()?, Activation::Silu);
/// assert_eq!(serde_json::to_string(&Activation::EXACT)?, "\"exact\"");
/// assert_eq!(serde_json::from_str::<Activation>("\"gelu\"")?, Activation::EXACT);
/// assert!(serde_json::from_str::<Activation>("\"none\"").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
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

/// Lists every activation with its formula. It does not compile if one is missing.
macro_rules! activations {
    ($($variant:ident $(($gelu:path))? => $formula:ty,)*) => {
        impl Activation {
            /// Every activation once.
            pub const ALL: &'static [Self] = &[$(Self::$variant $(($gelu))?),*];

            /// Everything about it.
            fn definition(self) -> &'static Definition {
                match self {
                    $(Self::$variant $(($gelu))? => {
                        static DEFINITION: Definition = Definition::of::<$formula>();
                        &DEFINITION
                    })*
                }
            }
        }
    };
}

activations! {
    Gelu(Gelu::Exact) => Exact,
    Gelu(Gelu::Tanh) => Tanh,
    Silu => Silu,
    QuickGelu => QuickGelu,
    Relu => Relu,
}

impl Activation {
    /// [`Gelu::Exact`].
    pub const EXACT: Self = Self::Gelu(Gelu::Exact);
    /// [`Gelu::Tanh`], with which Gemma was trained.
    pub const TANH: Self = Self::Gelu(Gelu::Tanh);

    /// All names that a file may use, with what each of them means: those of [`Gelu::NAMES`], then
    /// the others'.
    fn names() -> impl Iterator<Item = (&'static str, Self)> + Clone {
        let gelu = Gelu::NAMES.iter().map(|&(name, gelu)| (name, Self::Gelu(gelu)));
        gelu.chain(Self::other_names())
    }

    /// The names beyond [`Gelu::NAMES`].
    fn other_names() -> impl Iterator<Item = (&'static str, Self)> + Clone {
        let others = Self::ALL.iter().filter(|activation| !matches!(activation, Self::Gelu(_)));
        others.flat_map(|&activation| {
            activation.definition().names.iter().map(move |&name| (name, activation))
        })
    }

    /// Reads a name as transformers' `hidden_act` and `hidden_activation` use it.
    ///
    /// Narrower than parsing: in a config `tanh` would be the plain hyperbolic tangent.
    ///
    /// # Errors
    /// Any other name; the error lists the accepted ones.
    pub fn from_huggingface(name: &str) -> Result<Self, UnknownActivation> {
        let ours = Gelu::ALL.iter().map(|gelu| gelu.name());
        let names = Self::names().filter(|(n, _)| !ours.clone().any(|ours| ours == *n));
        match names.clone().find(|(accepted, _)| *accepted == name) {
            Some((_, activation)) => Ok(activation),
            None => Err(UnknownActivation::new(name, names.map(|(n, _)| n))),
        }
    }

    /// Our own name, which [`fmt::Display`] prints too: `exact`, `tanh`, `silu`,
    /// `quick_gelu` or `relu`.
    pub fn name(self) -> &'static str {
        self.definition().names[0]
    }

    /// Its name in a legend: `GELU exact`, `GELU tanh`, `SiLU`, `quick GELU` or `ReLU`.
    pub fn title(self) -> &'static str {
        self.definition().title
    }

    /// Writes the activation of every `x` to `y`. Every element depends on its own argument only.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn values<T: Float>(self, x: &[T], y: &mut [T]) {
        self.value().evaluate(x, y);
    }

    /// Writes the derivative at every `x` to `dy`; as exact as the values, but near its own zero,
    /// where its absolute error stays below 2^-28 in f32.
    ///
    /// # Panics
    /// If the slices differ in length.
    pub fn derivatives<T: Float>(self, x: &[T], dy: &mut [T]) {
        self.derivative().evaluate(x, dy);
    }

    /// It, as loops over slices.
    pub(crate) fn value(self) -> &'static Pointwise {
        &self.definition().value
    }

    /// Its derivative, as loops over slices.
    pub(crate) fn derivative(self) -> &'static Pointwise {
        &self.definition().derivative
    }

    /// It, of f32 or f64 on any device, out of candle's operations: `Formula::composed`.
    pub(crate) fn composed(self, x: &Tensor) -> CandleResult<Tensor> {
        (self.definition().composed)(x)
    }
}

/// An activation as a user of candle would write it.
///
/// # Errors
/// candle's.
pub fn activate_by_candle(x: &Tensor, activation: Activation) -> CandleResult<Tensor> {
    (activation.definition().candle)(x)
}

/// An activation and its derivative of a finite number, by what shares nothing with the kernels.
pub fn activation_truth(activation: Activation, x: f64) -> Truth<1> {
    (activation.definition().truth)(x)
}

impl From<Gelu> for Activation {
    fn from(gelu: Gelu) -> Self {
        Self::Gelu(gelu)
    }
}

/// What candle-nn calls an activation: its `Gelu` is the exact form, its `NewGelu` and
/// `GeluPytorchTanh` the tanh form, its `Swish` is SiLU.
///
/// ```
/// use gemma_mlp::Activation;
/// assert_eq!(Activation::try_from(candle_nn::Activation::Gelu)?, Activation::EXACT);
/// assert_eq!(Activation::try_from(candle_nn::Activation::NewGelu)?, Activation::TANH);
/// assert!(Activation::try_from(candle_nn::Activation::Mish).is_err());
/// # Ok::<(), gemma_mlp::UnknownActivation>(())
/// ```
impl TryFrom<candle_nn::Activation> for Activation {
    type Error = UnknownActivation;

    fn try_from(theirs: candle_nn::Activation) -> Result<Self, UnknownActivation> {
        let mut all = Self::ALL.iter().copied();
        let ours = all.find(|activation| activation.definition().candle_nn.contains(&theirs));
        ours.ok_or_else(|| {
            UnknownActivation::new(&format!("{theirs:?}"), Self::names().map(|(n, _)| n))
        })
    }
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Activation {
    type Err = UnknownActivation;

    /// Reads what [`Gelu`] reads, and `silu`, `swish`, `quick_gelu` or `relu`.
    fn from_str(name: &str) -> Result<Self, UnknownActivation> {
        let other = plain(name);
        match Self::other_names().find(|(accepted, _)| *accepted == other) {
            Some((_, activation)) => Ok(activation),
            None => name.parse().map(Self::Gelu).map_err(|e: UnknownActivation| {
                e.also_accepted(Self::other_names().map(|(n, _)| n))
            }),
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
        let name = String::deserialize(deserializer)?;
        from_file(&name, Self::names()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let names = ["exact", "tanh", "silu", "quick_gelu", "relu"];
        assert_eq!(Activation::ALL.iter().map(|a| a.name()).collect::<Vec<_>>(), names);
        for name in names {
            assert_eq!(name.parse::<Activation>().unwrap().to_string(), name);
        }
        let message = "mish".parse::<Activation>().unwrap_err().to_string();
        assert!(message.contains("gelu_pytorch_tanh") && message.contains("silu"), "{message}");
    }

    /// What candle-nn computes by a name is what ours computes by it.
    #[test]
    fn candle_nn_s_names_mean_what_it_computes() -> candle_core::Result<()> {
        use candle_nn::Activation as Theirs;
        let x = Tensor::arange_step(-4f32, 4.0, 0.25, &candle_core::Device::Cpu)?;
        let all = [
            (Theirs::Gelu, Activation::EXACT),
            (Theirs::NewGelu, Activation::TANH),
            (Theirs::GeluPytorchTanh, Activation::TANH),
            (Theirs::Silu, Activation::Silu),
            (Theirs::Swish, Activation::Silu),
            (Theirs::Relu, Activation::Relu),
        ];
        for (theirs, ours) in all {
            assert_eq!(Activation::try_from(theirs), Ok(ours));
            let difference = (x.apply(&theirs)? - activate_by_candle(&x, ours)?)?.abs()?;
            assert!(difference.max_all()?.to_scalar::<f32>()? < 1e-6, "{ours}");
            let mut values = vec![0.0; x.elem_count()];
            ours.values(&x.to_vec1::<f32>()?, &mut values);
            let difference = (x.apply(&theirs)? - Tensor::new(values, x.device())?)?.abs()?;
            assert!(difference.max_all()?.to_scalar::<f32>()? < 1e-6, "{ours}");
        }
        for theirs in [Theirs::Relu2, Theirs::Elu(1.0), Theirs::Sigmoid] {
            let message = Activation::try_from(theirs).unwrap_err().to_string();
            assert!(
                message.contains(&format!("{theirs:?}")) && message.contains("silu"),
                "{message}"
            );
        }
        Ok(())
    }

    /// Files have been written with our names, and configs are with transformers'. What is PyTorch's
    /// argument is refused, with what to write in its place.
    #[test]
    fn files() {
        fn read<T: serde::de::DeserializeOwned>(name: &str) -> Result<T, String> {
            serde_json::from_value(name.into()).map_err(|e| e.to_string())
        }
        for &activation in Activation::ALL {
            let name = serde_json::to_value(activation).unwrap();
            assert_eq!(name, activation.name());
            assert_eq!(read(activation.name()), Ok(activation));
        }
        for &gelu in Gelu::ALL {
            assert_eq!(serde_json::to_value(gelu).unwrap(), gelu.name());
            for name in [gelu.name(), gelu.huggingface_name()] {
                assert_eq!(read(name), Ok(gelu));
                assert_eq!(read(name), Ok(Activation::Gelu(gelu)));
            }
        }
        assert_eq!(read("gelu_new"), Ok(Gelu::Tanh));
        for (name, write) in [
            ("none", "\"gelu\" or \"exact\""),
            ("approximate=none", "\"gelu\" or \"exact\""),
            ("approximate='tanh'", "\"gelu_pytorch_tanh\" or \"tanh\""),
            ("approximate=True", "\"gelu_pytorch_tanh\" or \"tanh\""),
            ("mish", "gelu_new"),
            ("GELU", "gelu_new"),
        ] {
            for message in [read::<Gelu>(name).unwrap_err(), read::<Activation>(name).unwrap_err()]
            {
                assert!(message.contains(name) && message.contains(write), "{message}");
            }
        }
        assert!(read::<Gelu>("silu").unwrap_err().contains("silu"));
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
}
