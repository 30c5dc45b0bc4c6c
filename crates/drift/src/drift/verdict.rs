//! What follows from the figures, by a stated rule. Reports put it in words.

use super::layers::LayerDrift;
use super::logits::LogitMetrics;
use super::metrics::nan_from_null;
use serde::{Deserialize, Serialize};

/// How a drift compares with its floor, and the figures that decided.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Verdict {
    /// The class, by the ratio.
    pub size: Size,
    /// The drift over its floor; 0 where nothing drifts.
    #[serde(deserialize_with = "nan_from_null")]
    pub ratio: f64,
    /// The scored positions that it rests on.
    pub tokens: usize,
    /// The figures that the ratio compares.
    pub basis: Basis,
}

/// The figures that a verdict rests on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// The mean KL divergence of the logits.
    Logits {
        /// The drift's.
        #[serde(deserialize_with = "nan_from_null")]
        kl_mean_nats: f64,
        /// The floor's.
        #[serde(deserialize_with = "nan_from_null")]
        floor_kl_mean_nats: f64,
        /// The fraction of positions whose likeliest token is the same.
        #[serde(deserialize_with = "nan_from_null")]
        top1_agreement: f64,
        /// Perplexity of a.
        #[serde(deserialize_with = "nan_from_null")]
        ppl_a: f64,
        /// Perplexity of b.
        #[serde(deserialize_with = "nan_from_null")]
        ppl_b: f64,
    },
    /// Where there are no logits: the block output that moves farthest.
    BlockOutput {
        /// Which layer's.
        layer: usize,
        /// The drift's relative L2.
        #[serde(deserialize_with = "nan_from_null")]
        rel_l2: f64,
        /// The floor's.
        #[serde(deserialize_with = "nan_from_null")]
        floor_rel_l2: f64,
    },
}

/// The rule: the ratio of the drift to the floor, in the mean KL divergence of the logits or, where
/// there are no logits, in the relative L2 of the block output that moves farthest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
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
        Self::of_ratio(if drift == 0.0 { 0.0 } else { drift / floor })
    }

    fn of_ratio(ratio: f64) -> Self {
        match ratio {
            _ if ratio.is_nan() => Self::NotFinite,
            0.0 => Self::None,
            ..0.1 => Self::FarBelowFloor,
            ..1.0 => Self::BelowFloor,
            ..10.0 => Self::AboveFloor,
            _ => Self::FarAboveFloor,
        }
    }
}

impl Verdict {
    /// Verdicts on fewer scored positions than this say so: their figures may well be chance.
    pub const FEW_TOKENS: usize = 100;

    /// The verdict on a run, `finite` saying whether all that was computed is.
    pub(super) fn new(
        tokens: usize,
        layers: &[LayerDrift],
        logits: Option<(LogitMetrics, LogitMetrics)>,
        finite: bool,
    ) -> Self {
        let basis = Basis::new(layers, logits);
        let ratio = basis.ratio();
        let size = if finite { Size::of_ratio(ratio) } else { Size::NotFinite };
        Self { size, ratio, tokens, basis }
    }
}

impl Basis {
    fn new(layers: &[LayerDrift], logits: Option<(LogitMetrics, LogitMetrics)>) -> Self {
        if let Some((drift, floor)) = logits {
            return Self::Logits {
                kl_mean_nats: drift.kl_mean_nats,
                floor_kl_mean_nats: floor.kl_mean_nats,
                top1_agreement: drift.top1_agreement,
                ppl_a: drift.ppl_a,
                ppl_b: drift.ppl_b,
            };
        }
        let outputs =
            layers.iter().map(|l| (l.index, l.drift.output.rel_l2, l.floor.output.rel_l2));
        let farthest = outputs.max_by(|a, b| a.1.total_cmp(&b.1));
        let (layer, rel_l2, floor_rel_l2) = farthest.unwrap_or_default();
        Self::BlockOutput { layer, rel_l2, floor_rel_l2 }
    }

    fn ratio(&self) -> f64 {
        let (drift, floor) = match *self {
            Self::Logits { kl_mean_nats, floor_kl_mean_nats, .. } => {
                (kl_mean_nats, floor_kl_mean_nats)
            }
            Self::BlockOutput { rel_l2, floor_rel_l2, .. } => (rel_l2, floor_rel_l2),
        };
        if drift == 0.0 { 0.0 } else { drift / floor }
    }
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
            let basis = Basis::BlockOutput { layer: 0, rel_l2: drift, floor_rel_l2: floor };
            assert_eq!(Size::of_ratio(basis.ratio()), size, "{drift} {floor}");
        }
    }
}
