//! The rotary embedding of a layer, out of all the spellings that configs have for it.
//!
//! | where | of which layers |
//! |---|---|
//! | `rope_parameters.TYPE` | those of the type (transformers 5) |
//! | `rope_parameters`, beside the types or without any | all that have no base of their own |
//! | `rope_theta`, `rope_scaling` | all that have no base of their own (the Hub's files) |
//! | `rope_local_base_freq` | those with a base of their own: Gemma 3's sliding layers |
//!
//! The first that has a value is taken, as in transformers (`Gemma3TextConfig.convert_rope_params_to_dict`),
//! except that `rope_scaling` goes before the newer spelling there too.

use super::raw::{LayerType, RawConfig, RawRope};
use crate::checkpoint::families::AttentionProfile;
use crate::checkpoint::notes::{Notes, Refusal};
use serde::Serialize;

/// What of a head is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rotated {
    /// All pairs `(i, i + d/2)` of `d` numbers.
    All,
    /// The first so many of these pairs, with frequencies as of all: "proportional" (Gemma 4).
    Pairs(usize),
    /// The first so many numbers, as if they were a head of that width (RecurrentGemma).
    First(usize),
}

/// Base and factor of a layer's rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rope {
    /// The base of the frequencies.
    pub(super) theta: f64,
    /// By what positions are divided; 1 where nothing is scaled.
    pub(super) factor: f64,
    /// What of a head is rotated.
    pub(super) rotated: Rotated,
}

impl Rope {
    pub(super) fn resolve(
        profile: &AttentionProfile,
        raw: &RawConfig,
        layer_type: &LayerType,
        head_dim: usize,
        notes: &mut Notes,
    ) -> Result<Self, Refusal> {
        let sliding = profile.sliding.as_ref().filter(|_| *layer_type == LayerType::Sliding);
        let own = sliding.and_then(|sliding| sliding.rope_theta);
        let spellings = Spellings::of(raw, layer_type, own.is_some());
        let (name, default) = match own {
            Some(theta) => ("rope_local_base_freq", theta),
            None => ("rope_theta", profile.rope_theta),
        };
        let theta = spellings.theta(name, notes);
        let theta = notes.or(name, theta, default);
        if !(theta > 0.0 && theta.is_finite()) {
            return Err(Refusal::Impossible(format!(
                "the base of the rotary embedding is {theta}; it must be positive"
            )));
        }
        let partial = spellings.all().find_map(|(_, rope)| rope.partial_rotary_factor);
        let partial = partial.or(raw.partial_rotary_factor);
        let is_full = *layer_type == LayerType::Full;
        if let Some(part) = profile.proportional.filter(|_| is_full)
            && spellings.is_proportional()
        {
            let part = notes.or("partial_rotary_factor", partial, part);
            let factor = spellings.all().find_map(|(_, rope)| rope.factor).unwrap_or(1.0);
            return proportional(theta, factor, part, head_dim);
        }
        let factor = spellings.factor(notes)?;
        if let Some(part) = profile.partial {
            let part = notes.or("partial_rotary_factor", partial, part);
            let width = (part * head_dim as f64) as usize; // rounded down, as in transformers
            if !(part <= 1.0 && width > 0 && width.is_multiple_of(2)) {
                return Err(Refusal::Impossible(format!(
                    "partial_rotary_factor is {part}; of heads of {head_dim} it must leave an even number to rotate"
                )));
            }
            return Ok(Self { theta, factor, rotated: Rotated::First(width) });
        }
        match partial {
            None | Some(1.0) => Ok(Self { theta, factor, rotated: Rotated::All }),
            Some(part) => {
                Err(Refusal::Unsupported(format!("partial_rotary_factor {part} is not supported")))
            }
        }
    }
}

/// transformers' `_compute_proportional_rope_parameters`: some of a head's frequencies, and zeros for the rest.
fn proportional(theta: f64, factor: f64, part: f64, head_dim: usize) -> Result<Rope, Refusal> {
    if !(factor > 0.0 && factor.is_finite()) {
        return Err(Refusal::Impossible(format!(
            "the factor of rope_type \"proportional\" is {factor}; it must be positive"
        )));
    }
    if !(0.0..=1.0).contains(&part) {
        return Err(Refusal::Impossible(format!(
            "partial_rotary_factor is {part}; it must be between 0 and 1"
        )));
    }
    let pairs = (part * head_dim as f64 / 2.0) as usize;
    Ok(Rope { theta, factor, rotated: Rotated::Pairs(pairs) })
}

/// What a file has for a layer, the first the one that counts.
struct Spellings {
    /// `rope_scaling`.
    scaling: RawRope,
    /// `rope_parameters.TYPE`.
    typed: RawRope,
    /// `rope_parameters`.
    shared: RawRope,
    /// `rope_theta` or `rope_local_base_freq`.
    older: Option<f64>,
}

impl Spellings {
    fn of(raw: &RawConfig, layer_type: &LayerType, own_base: bool) -> Self {
        let parameters = raw.rope_parameters.clone().unwrap_or_default();
        let shared = parameters.shared();
        let typed = match layer_type {
            LayerType::Sliding => parameters.sliding_attention,
            LayerType::Full => parameters.full_attention,
            LayerType::Other(_) => None,
        };
        let typed = typed.unwrap_or_default();
        if own_base {
            // What all layers share is not meant for these.
            let [scaling, shared] = [RawRope::default(), RawRope::default()];
            return Self { scaling, typed, shared, older: raw.rope_local_base_freq };
        }
        let scaling = raw.rope_scaling.clone().unwrap_or_default();
        Self { scaling, typed, shared, older: raw.rope_theta }
    }

    fn all(&self) -> impl Iterator<Item = (&'static str, &RawRope)> {
        [
            ("rope_scaling", &self.scaling),
            ("rope_parameters of the layer type", &self.typed),
            ("rope_parameters", &self.shared),
        ]
        .into_iter()
    }

    fn theta(&self, older: &'static str, notes: &mut Notes) -> Option<f64> {
        let newer = self.all().filter_map(|(name, rope)| Some((name, rope.rope_theta?)));
        let mut found = newer.chain(self.older.map(|theta| (older, theta)));
        let (name, theta) = found.next()?;
        for (other, ignored) in found.filter(|&(_, other)| other != theta) {
            notes.chosen(format!(
                "the base of the rotary embedding is {theta} in {name} and {ignored} in {other}; {theta} is used"
            ));
        }
        Some(theta)
    }

    /// Whether the type that counts is "proportional", or none is named.
    fn is_proportional(&self) -> bool {
        let named = self.all().find_map(|(_, rope)| rope.rope_type());
        named.is_none_or(|name| name == "proportional")
    }

    fn factor(&self, notes: &mut Notes) -> Result<f64, Refusal> {
        let mut found = self.all().filter(|(_, rope)| rope.rope_type().is_some());
        let Some((name, rope)) = found.next() else { return Ok(1.0) };
        let factor = factor(rope)?;
        for (other, ignored) in found {
            let ignored = self::factor(ignored);
            if ignored.as_ref().ok() != Some(&factor) {
                notes.chosen(format!(
                    "{name} and {other} scale positions differently; {name} is used"
                ));
            }
        }
        Ok(factor)
    }
}

fn factor(rope: &RawRope) -> Result<f64, Refusal> {
    match (rope.rope_type(), rope.factor) {
        (None | Some("default"), _) => Ok(1.0),
        (Some("linear"), Some(factor)) if factor > 0.0 && factor.is_finite() => Ok(factor),
        (Some("linear"), None) => Err(Refusal::Impossible(
            "rope_type \"linear\" has no factor by which positions are divided".into(),
        )),
        (Some("linear"), Some(factor)) => Err(Refusal::Impossible(format!(
            "the factor of rope_type \"linear\" is {factor}; it must be positive"
        ))),
        (Some(other), _) => {
            Err(Refusal::Unsupported(format!("rope_type \"{other}\" is not supported")))
        }
    }
}
