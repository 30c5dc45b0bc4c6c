//! Which activation a config means, and why.

use crate::checkpoint::families::{ActivationRule, Family};
use crate::error::UnknownActivation;
use crate::kernels::activation::Activation;
use serde::{Deserialize, Serialize};

/// A choice together with the sentence that explains it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Resolved<T> {
    /// What was chosen.
    pub value: T,
    /// Why, for people to read.
    pub reason: String,
}

/// Resolves the activation of a config's text part from its two fields.
///
/// Every family was trained with the tanh form, but the files say so in different ways:
///
/// - **Gemma 1** was released with `hidden_act: "gelu"`, which in transformers means exact GELU.
///   `hidden_activation` was added to correct that, and is null or absent in most copies. For the
///   legacy value transformers (`models/gemma/configuration_gemma.py`, since 5.0) and vLLM
///   (`model_executor/models/gemma.py`) compute tanh, candle-transformers 0.11 exact.
/// - **All later families** have `hidden_activation`, and transformers reads nothing else; there
///   `"gelu"` really is exact, and an absent field means tanh.
///
/// # Errors
/// A name that is not one of transformers' GELUs, SiLU or ReLU.
pub(in crate::checkpoint) fn resolve_activation(
    family: Family,
    hidden_act: Option<&str>,
    hidden_activation: Option<&str>,
) -> Result<Resolved<Activation>, UnknownActivation> {
    use ActivationRule::LegacyHiddenAct;
    let rule = family.profile().activation;
    let (value, reason) = match (rule, hidden_activation, hidden_act) {
        (LegacyHiddenAct, Some(name), _) => {
            let value = Activation::from_huggingface(name)?;
            (value, gemma1_explicit(name, value, hidden_act))
        }
        (LegacyHiddenAct, None, Some("gelu")) => (Activation::TANH, LEGACY.to_string()),
        (LegacyHiddenAct, None, Some(name)) => {
            (Activation::from_huggingface(name)?, format!("hidden_act says \"{name}\""))
        }
        (_, Some(name), _) => {
            let value = Activation::from_huggingface(name)?;
            let unread = match hidden_act {
                Some(other) if Activation::from_huggingface(other) != Ok(value) => format!(
                    "; hidden_act says \"{other}\", but {family} is read through hidden_activation alone"
                ),
                _ => String::new(),
            };
            (value, format!("hidden_activation says \"{name}\"{unread}"))
        }
        (_, None, Some(name)) => (
            Activation::TANH,
            format!(
                "hidden_activation is not set and {family}'s default is gelu_pytorch_tanh; \
                 hidden_act (\"{name}\") is not read for this family"
            ),
        ),
        (_, None, None) => (
            Activation::TANH,
            format!("no activation is set; {family}'s default is gelu_pytorch_tanh"),
        ),
    };
    Ok(Resolved { value, reason })
}

const LEGACY: &str = "hidden_act \"gelu\" is a legacy value of Gemma 1's files: the model was trained with \
     the tanh form, which transformers and vLLM compute for it; candle-transformers computes exact GELU";

fn gemma1_explicit(name: &str, value: Activation, hidden_act: Option<&str>) -> String {
    let ignored = match hidden_act {
        // transformers 5 reads hidden_act alone, and "gelu" or nothing there as tanh.
        None | Some("gelu") => Activation::TANH,
        Some(other) => Activation::from_huggingface(other).unwrap_or(value),
    };
    let mut reason = format!("hidden_activation says \"{name}\"");
    if let Some(other) = hidden_act.filter(|other| Activation::from_huggingface(other) != Ok(value))
    {
        reason += &format!(", which corrects hidden_act \"{other}\"");
    }
    if ignored != value {
        reason += &format!("; transformers 5 ignores it for Gemma 1 and computes {ignored}");
    }
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_files_say_and_what_they_mean() {
        use Activation as A;
        let [gemma, gemma2, gemma3] = ["Gemma 1", "Gemma 2", "Gemma 3"].map(Family::named);
        for (family, hidden_act, hidden_activation, value, reason) in [
            // Gemma 1 as released, and as corrected on the Hub.
            (gemma, Some("gelu"), None, A::TANH, "legacy"),
            (gemma, Some("gelu"), Some("gelu_pytorch_tanh"), A::TANH, "corrects"),
            (gemma, Some("gelu_pytorch_tanh"), None, A::TANH, "hidden_act says"),
            (gemma, None, None, A::TANH, "default"),
            // Explicitly exact: honoured, with a word on who would not.
            (gemma, Some("gelu"), Some("gelu"), A::EXACT, "transformers 5 ignores it"),
            (gemma, Some("gelu_pytorch_tanh"), Some("gelu"), A::EXACT, "computes tanh"),
            (gemma, Some("silu"), None, A::Silu, "silu"),
            // Later families read one field.
            (gemma2, None, Some("gelu"), A::EXACT, "hidden_activation says \"gelu\""),
            (gemma2, Some("gelu"), None, A::TANH, "not read"),
            (gemma3, Some("gelu"), Some("gelu_pytorch_tanh"), A::TANH, "alone"),
            (gemma3, None, None, A::TANH, "default"),
        ] {
            let resolved = resolve_activation(family, hidden_act, hidden_activation).unwrap();
            let case = format!("{family} {hidden_act:?} {hidden_activation:?}: {resolved:?}");
            assert!(resolved.value == value && resolved.reason.contains(reason), "{case}");
        }
    }

    #[test]
    fn unknown_names_are_refused_where_they_are_read() {
        let [gemma, gemma3] = ["Gemma 1", "Gemma 3"].map(Family::named);
        assert!(resolve_activation(gemma, Some("mish"), None).is_err());
        assert!(resolve_activation(gemma3, None, Some("tanh")).is_err());
        assert!(resolve_activation(gemma3, Some("mish"), None).is_ok());
    }
}
