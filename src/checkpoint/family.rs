//! The families of Gemma, and which of them the block covers.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The families whose MLP is the plain gated block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// Gemma 1, CodeGemma, and the text part of PaliGemma 1.
    #[serde(rename = "Gemma 1")]
    Gemma,
    /// Gemma 2, ShieldGemma 1, and the text part of PaliGemma 2.
    #[serde(rename = "Gemma 2")]
    Gemma2,
    /// Gemma 3 text and multimodal, EmbeddingGemma, MedGemma, ShieldGemma 2.
    #[serde(rename = "Gemma 3")]
    Gemma3,
    /// VaultGemma: Gemma 2 without the norms behind attention and MLP.
    VaultGemma,
    /// T5Gemma: Gemma 2 layers as an encoder and a decoder.
    T5Gemma,
    /// RecurrentGemma (Griffin): biases in the MLP, recurrent layers between attention layers.
    RecurrentGemma,
}

impl From<Family> for &'static str {
    fn from(family: Family) -> Self {
        match family {
            Family::Gemma => "Gemma 1",
            Family::Gemma2 => "Gemma 2",
            Family::Gemma3 => "Gemma 3",
            Family::VaultGemma => "VaultGemma",
            Family::T5Gemma => "T5Gemma",
            Family::RecurrentGemma => "RecurrentGemma",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str((*self).into())
    }
}

impl Family {
    /// The family of a model by its `model_type` and that of its `text_config`, or the sentence why
    /// the model is not covered.
    pub(super) fn detect(model_type: &str, text_type: Option<&str>) -> Result<Self, String> {
        let not_covered =
            |why: &str| Err(format!("model_type \"{model_type}\" is not covered: {why}"));
        // Multimodal files may leave the text part's own type out.
        let text_type = text_type.unwrap_or(match model_type {
            "paligemma" => "gemma",
            "gemma3" | "shieldgemma2" => "gemma3_text",
            own => own,
        });
        match (model_type, text_type) {
            ("gemma" | "paligemma", "gemma") => Ok(Self::Gemma),
            ("gemma2" | "paligemma", "gemma2") => Ok(Self::Gemma2),
            ("gemma3" | "gemma3_text" | "shieldgemma2", "gemma3_text") => Ok(Self::Gemma3),
            ("vaultgemma", _) => Ok(Self::VaultGemma),
            ("t5gemma", _) => Ok(Self::T5Gemma),
            ("recurrent_gemma", _) => Ok(Self::RecurrentGemma),
            ("gemma3n" | "gemma3n_text", _) => not_covered(
                "Gemma 3n's MLP zeroes most activations (activation_sparsity_pattern) before the product",
            ),
            (m, _) if m.starts_with("gemma4") => not_covered(
                "Gemma 4 has mixture-of-experts and double-wide MLPs, which the plain gated block is not",
            ),
            ("t5gemma2" | "embedding_gemma2" | "diffusion_gemma", _) => {
                not_covered("its layers have not been checked against the reference yet")
            }
            _ => not_covered(
                "the MLP of Gemma 1, 2 and 3, PaliGemma, VaultGemma, T5Gemma and RecurrentGemma is",
            ),
        }
    }
}
