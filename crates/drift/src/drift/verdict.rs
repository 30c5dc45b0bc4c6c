//! What follows from the figures, by a stated rule.

use super::layers::LayerDrift;
use super::logits::LogitMetrics;
use super::side::Sides;
use serde::{Deserialize, Serialize};

/// How a drift compares with its floor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The class that the rule of [`Size`] puts it in.
    pub size: Size,
    /// The same in a sentence, with the figures that decided.
    pub verdict: String,
}

/// The rule: the ratio of the drift to the floor, taken of the mean KL divergence of the logits,
/// or, where there are no logits, of the farthest block output's relative L2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Size {
    /// Not one bit differs.
    None,
    /// Ratio below 1/10.
    FarBelowFloor,
    /// Ratio from 1/10 to 1.
    BelowFloor,
    /// Ratio from 1 to 10.
    AboveFloor,
    /// Ratio of 10 or more.
    FarAboveFloor,
    /// A side is not finite.
    NotFinite,
}

impl Size {
    /// The class of a drift beside its floor: two figures of one kind, of which larger is farther.
    pub fn of(drift: f64, floor: f64) -> Self {
        match drift / floor {
            _ if drift == 0.0 => Self::None,
            ratio if ratio.is_nan() => Self::NotFinite,
            ..0.1 => Self::FarBelowFloor,
            ..1.0 => Self::BelowFloor,
            ..10.0 => Self::AboveFloor,
            _ => Self::FarAboveFloor,
        }
    }

    fn phrase(self) -> &'static str {
        match self {
            Self::None => "makes no difference at all",
            Self::FarBelowFloor => "is far below the noise floor: rounding hides it",
            Self::BelowFloor => "is below the noise floor: rounding does more",
            Self::AboveFloor => "is above the noise floor, but of its size",
            Self::FarAboveFloor => "is far above the noise floor: it changes the model",
            Self::NotFinite => "cannot be measured: values are not finite",
        }
    }
}

pub(super) fn verdict(
    Sides { a, b }: Sides,
    layers: &[LayerDrift],
    logits: Option<(LogitMetrics, LogitMetrics)>,
    first_nonfinite: Option<usize>,
) -> Verdict {
    let (what, unit, drift, floor) = match logits {
        Some((drift, floor)) => {
            ("the logits move by a mean KL of", " nats", drift.kl_mean_nats, floor.kl_mean_nats)
        }
        None => {
            let output = layers.iter().map(|l| (l.drift.output.rel_l2, l.floor.output.rel_l2));
            let (drift, floor) = output.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or_default();
            ("the farthest block output moves by", " of its norm", drift, floor)
        }
    };
    let size = match first_nonfinite {
        Some(_) => Size::NotFinite,
        None => Size::of(drift, floor),
    };
    let place = first_nonfinite.map(|layer| format!(" from layer {layer} on")).unwrap_or_default();
    let mut verdict = format!("{b} instead of {a} {}{place}", size.phrase());
    if size != Size::None && size != Size::NotFinite {
        verdict += &format!(
            "; {what} {drift:.2e}{unit}, {} times the {floor:.2e} of rounding alone",
            times(drift / floor)
        );
    }
    if let Some((drift, _)) = logits.filter(|_| size != Size::NotFinite) {
        verdict += &format!(
            "; {:.2} % of the likeliest tokens agree, perplexity goes from {:.4} to {:.4}",
            100.0 * drift.top1_agreement,
            drift.ppl_a,
            drift.ppl_b
        );
    }
    Verdict { size, verdict: verdict + "." }
}

fn times(ratio: f64) -> String {
    if (0.01..1000.0).contains(&ratio) { format!("{ratio:.2}") } else { format!("{ratio:.1e}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule() {
        for (drift, floor, size) in [
            (0.0, 0.0, Size::None),
            (0.0, 1.0, Size::None),
            (0.09, 1.0, Size::FarBelowFloor),
            (0.1, 1.0, Size::BelowFloor),
            (1.0, 1.0, Size::AboveFloor),
            (10.0, 1.0, Size::FarAboveFloor),
            (1.0, 0.0, Size::FarAboveFloor),
            (f64::NAN, 1.0, Size::NotFinite),
        ] {
            assert_eq!(Size::of(drift, floor), size, "{drift} {floor}");
        }
    }
}
