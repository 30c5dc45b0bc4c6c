//! The families of Gemma as data: one profile each, in a file of its own. Nothing else in this crate
//! asks for a family's name.
//!
//! The source of every profile is transformers' `configuration_*.py` and `modeling_*.py`.

mod diffusion_gemma;
mod embedding_gemma2;
mod gemma;
mod gemma2;
mod gemma3;
mod gemma3n;
mod gemma4;
mod gemma4_unified;
mod profile;
mod recurrent_gemma;
mod t5gemma;
mod vaultgemma;

pub(super) use profile::{
    ActivationRule, AttentionProfile, Bidirectional, BlockType, LeftOut, Model, Profile, Release,
    Scaling, Sliding, Softcap,
};
pub use profile::{EmbeddingScale, NormNames, NormWeight, PerLayerNames};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Every family that is covered. Of two that name one `model_type` the first is meant where a file
/// leaves the text part's own type out.
const FAMILIES: &[&Profile] = &[
    &gemma::PROFILE,
    &gemma2::PROFILE,
    &gemma3::PROFILE,
    &vaultgemma::PROFILE,
    &gemma3n::PROFILE,
    &gemma4::PROFILE,
    &gemma4_unified::PROFILE,
    &embedding_gemma2::PROFILE,
    &diffusion_gemma::PROFILE,
    &t5gemma::PROFILE,
    &recurrent_gemma::PROFILE,
];

/// Models that are not covered, by the beginning of their `model_type`, and why.
const NOT_COVERED: &[(&str, &str)] = &[
    ("gemma4_assistant", DRAFTER),
    ("gemma4_unified_assistant", DRAFTER),
    ("t5gemma2", "its layers have not been checked against the reference yet"),
    (
        "colpali",
        "it makes embeddings of pages, which are images, out of a PaliGemma; its text is not run by itself",
    ),
    ("pi0", "it makes a robot's actions out of a PaliGemma; its text is not run by itself"),
    (
        "",
        "covered are Gemma 1 to 4 and 3n, EmbeddingGemma, VaultGemma, DiffusionGemma, PaliGemma, T5Gemma and \
         RecurrentGemma, and the models around them",
    ),
];

const DRAFTER: &str = "it drafts for another Gemma 4, whose keys and values it reads, and is no model by itself; pass that \
     model";

/// A family whose MLP is the plain gated block.
#[derive(Clone, Copy)]
pub struct Family(&'static Profile);

impl Family {
    /// Its name: `Gemma 3`.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    pub(super) fn profile(self) -> &'static Profile {
        self.0
    }

    /// Whether any family has a `model_type`, or the sentence why it is not covered.
    pub(super) fn covers(model_type: &str) -> Result<(), String> {
        let known = |profile: &&Profile| profile.models.iter().any(|m| m.model_type == model_type);
        match FAMILIES.iter().any(known) {
            true => Ok(()),
            false => Err(not_covered(model_type, None)),
        }
    }

    /// The family of a model by its `model_type` and that of its `text_config`, with what is known of
    /// the model; or the sentence why it is not covered.
    pub(super) fn detect(
        model_type: &str,
        text_type: Option<&str>,
    ) -> Result<(Self, &'static Model), String> {
        let models = FAMILIES.iter().flat_map(|&p| p.models.iter().map(move |m| (Self(p), m)));
        let mut own = models.filter(|(_, model)| model.model_type == model_type);
        own.find(|(_, model)| text_type.is_none_or(|text| text == model.text_type))
            .ok_or_else(|| not_covered(model_type, text_type))
    }

    /// The released model of a shape, `[hidden, intermediate, layers]`, of whatever family.
    pub(super) fn release_of(shape: [usize; 3]) -> Option<(Self, &'static Release)> {
        let all = FAMILIES.iter().flat_map(|&p| p.releases.iter().map(move |r| (Self(p), r)));
        all.into_iter()
            .find(|(_, r)| [r.hidden_size, r.intermediate_size, r.num_hidden_layers] == shape)
    }

    #[cfg(test)]
    pub(super) fn named(name: &str) -> Self {
        Self::by_name(name).unwrap()
    }

    fn by_name(name: &str) -> Option<Self> {
        FAMILIES.iter().find(|profile| profile.name == name).map(|&profile| Self(profile))
    }
}

fn not_covered(model_type: &str, text_type: Option<&str>) -> String {
    let text = text_type.map_or(String::new(), |text| format!(" around \"{text}\""));
    let why = NOT_COVERED.iter().find(|(start, _)| model_type.starts_with(start));
    let why = why.map_or("", |(_, why)| why);
    format!("model_type \"{model_type}\"{text} is not covered: {why}")
}

impl PartialEq for Family {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Family {}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Family {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Family {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::by_name(&name)
            .ok_or_else(|| serde::de::Error::custom(format!("no family is \"{name}\"")))
    }
}
