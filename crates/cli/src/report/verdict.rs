//! A verdict in words.

use super::number::percent;
use gemma_mlp_drift::drift::{Basis, Drift, NonFinite, Sides, Size, Verdict};

/// What the noise floor is, where a report first speaks of it.
pub(super) const NOISE_FLOOR: &str = "what rounding alone does";
/// What a nat is, where a report first has one.
pub(super) const NAT: &str = "1 nat is 1.44 bits";

/// A verdict's words, numbers written as `number` does.
pub(super) struct Words<'a> {
    drift: &'a Drift,
    number: fn(f64) -> String,
}

impl<'a> Words<'a> {
    pub(super) fn new(drift: &'a Drift, number: fn(f64) -> String) -> Self {
        Self { drift, number }
    }

    /// All of it.
    pub(super) fn text(&self) -> String {
        format!("{}. {}", self.headline(), self.evidence()).trim_end().to_string()
    }

    /// What follows, without a full stop.
    pub(super) fn headline(&self) -> String {
        let Verdict { size, tokens, .. } = self.drift.verdict;
        let sides = &self.drift.header.sides;
        let on = match tokens {
            1 => "on 1 token only: ".to_string(),
            n if n < Verdict::FEW_TOKENS => format!("on {n} tokens only: "),
            _ => String::new(),
        };
        capitalised(&format!("{on}{} instead of {} {}", sides.b, sides.a, self.phrase(size)))
    }

    fn phrase(&self, size: Size) -> String {
        let floor = &self.drift.header.floor_sides;
        let [wide, dtype] = [floor.a, floor.b].map(|side| side.dtype.as_str());
        let mistake = if is_hidden_mistake(self.drift) {
            format!(", but it is still a mistake to mend, and shows in {wide}")
        } else {
            String::new()
        };
        match size {
            Size::None => "makes no difference at all".into(),
            Size::FarBelowFloor => {
                format!("is far below the noise floor: rounding to {dtype} hides it{mistake}")
            }
            Size::BelowFloor => {
                format!("is below the noise floor: rounding to {dtype} does more{mistake}")
            }
            Size::AboveFloor => "is above the noise floor, but less than ten times as large".into(),
            Size::FarAboveFloor => "is far above the noise floor: it changes the model".into(),
            Size::NotFinite => format!("cannot be measured: {}", self.what_is_not_finite()),
            Size::FloorNotFinite => {
                let whose = match self.drift.verdict.floor_nonfinite {
                    NonFinite { a: true, b: true } => format!("values of {wide} and {dtype} are"),
                    NonFinite { a: true, .. } => format!("values of {} are", floor.a),
                    NonFinite { b: true, .. } => format!("values of {} are", floor.b),
                    _ => "it is".into(),
                };
                format!("is measured, but has no noise floor beside it: {whose} not finite")
            }
        }
    }

    /// Whose values are not finite, and where.
    fn what_is_not_finite(&self) -> String {
        let whose = match self.drift.verdict.nonfinite {
            NonFinite { a: true, b: true } => "values of both sides are not finite",
            NonFinite { a: true, .. } => "values of side a, the reference, are not finite",
            NonFinite { b: true, .. } => "values of side b alone are not finite",
            _ => "it is not finite",
        };
        let layer = self.drift.first_nonfinite;
        let layer = layer.map_or(String::new(), |layer| format!(", first in layer {layer}"));
        let positions = self.drift.logits.map_or(0.0, |logits| logits.nonfinite_positions);
        let positions = match positions {
            ..=0.0 => String::new(),
            n => format!(", and logits at {} of {} positions", n as u64, self.drift.tokens),
        };
        format!("{whose}{layer}{positions}")
    }

    /// The figures that decided, in sentences.
    pub(super) fn evidence(&self) -> String {
        let Verdict { size, ratio, basis, .. } = self.drift.verdict;
        if size == Size::NotFinite {
            return String::new();
        }
        let moved = |what: &str, drift: f64, unit: &str, floor: f64| {
            let [drift, times, floor] = [drift, ratio, floor].map(self.number);
            match ratio {
                _ if size == Size::None => String::new(),
                _ if size == Size::FloorNotFinite => format!("{what} {drift} {unit}. "),
                ratio if ratio.is_finite() => {
                    format!("{what} {drift} {unit}, {times} times the {floor} of rounding alone. ")
                }
                _ => format!("{what} {drift} {unit}, and rounding alone moves nothing. "),
            }
        };
        match basis {
            Basis::Logits {
                kl_mean_nats: kl,
                floor_kl_mean_nats,
                top1_agreement,
                ppl_a,
                ppl_b,
            } => {
                let logits =
                    moved("The logits move by a mean KL of", kl, "nats", floor_kl_mean_nats);
                let share = percent(top1_agreement);
                let perplexity = match ppl_a.is_nan() || ppl_b.is_nan() {
                    true => "needs a text of at least two tokens".to_string(),
                    false => format!("goes from {ppl_a:.4} to {ppl_b:.4}"),
                };
                format!("{logits}{share} of the likeliest tokens agree; perplexity {perplexity}.")
            }
            Basis::Embedding { distance_mean, floor_distance_mean, cosine_mean } => {
                let what = "The embeddings of the texts, each of unit length, move by";
                let embeddings = moved(what, distance_mean, "on average", floor_distance_mean);
                format!("{embeddings}Their cosine is {cosine_mean:.8}.")
            }
            Basis::BlockOutput { layer, rel_l2, floor_rel_l2 } => {
                let what = format!("Layer {layer}'s block output moves farthest, by");
                moved(&what, rel_l2, "of its norm", floor_rel_l2)
            }
        }
    }
}

/// Whether another function stands in the gate, and rounding hides it. (Sides that are rounded
/// differently are no mistake.)
pub(super) fn is_hidden_mistake(drift: &Drift) -> bool {
    let Sides { a, b } = &drift.header.sides;
    let hidden = matches!(drift.verdict.size, Size::FarBelowFloor | Size::BelowFloor);
    hidden && a.activation != b.activation
}

/// A size in words.
pub(super) fn size_words(size: Size) -> &'static str {
    match size {
        Size::None => "none",
        Size::FarBelowFloor => "far below floor",
        Size::BelowFloor => "below floor",
        Size::AboveFloor => "above floor",
        Size::FarAboveFloor => "far above floor",
        Size::NotFinite => "not finite",
        Size::FloorNotFinite => "floor not finite",
    }
}

/// The first letter as at the beginning of a sentence.
fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(chars).collect()
}
