//! What follows from the figures, by a stated rule. Reports put it in words.

use super::embedding::EmbeddingMetrics;
use super::layers::LayerDrift;
use super::logits::LogitMetrics;
use super::metrics::{NonFinite, nan_from_null};
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
    /// Which sides of the pair have values that are not finite.
    pub nonfinite: NonFinite,
    /// Which sides of the floor's pair have any.
    pub floor_nonfinite: NonFinite,
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
    /// In an encoder without a head: the mean distance of the embeddings of windows, each of unit length.
    Embedding {
        /// The drift's.
        #[serde(deserialize_with = "nan_from_null")]
        distance_mean: f64,
        /// The floor's.
        #[serde(deserialize_with = "nan_from_null")]
        floor_distance_mean: f64,
        /// The mean cosine of the drift's.
        #[serde(deserialize_with = "nan_from_null")]
        cosine_mean: f64,
    },
    /// Where the blocks alone run: the block output that moves farthest.
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

/// The rule: the ratio of the drift to the floor, in the mean KL divergence of the logits; in the mean distance of
/// embeddings, of an encoder; or, where the blocks alone run, in the relative L2 of the block output that moves farthest.
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
    /// The drift is not a number: values of a side are not finite.
    NotFinite,
    /// The drift is one, but its floor is not: there is nothing to compare it with.
    FloorNotFinite,
}

/// The drift over its floor; 0 where nothing drifts.
fn ratio(drift: f64, floor: f64) -> f64 {
    if drift == 0.0 { 0.0 } else { drift / floor }
}

impl Size {
    /// The class of a drift beside its floor: two figures of one kind, of which larger is farther.
    pub fn of(drift: f64, floor: f64) -> Self {
        match ratio(drift, floor) {
            _ if drift.is_nan() => Self::NotFinite,
            0.0 if drift == 0.0 => Self::None,
            _ if !floor.is_finite() => Self::FloorNotFinite,
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

    /// The verdict on a run; the last two say which sides of the pair and of the floor's have values
    /// that are not finite.
    pub(super) fn new(
        tokens: usize,
        layers: &[LayerDrift],
        logits: Option<(LogitMetrics, LogitMetrics)>,
        embedding: Option<(EmbeddingMetrics, EmbeddingMetrics)>,
        [nonfinite, floor_nonfinite]: [NonFinite; 2],
    ) -> Self {
        let basis = Basis::new(layers, logits, embedding);
        let (drift, floor) = basis.pair();
        let size = match Size::of(drift, floor) {
            _ if nonfinite.any() => Size::NotFinite,
            size => size,
        };
        Self { size, ratio: ratio(drift, floor), tokens, basis, nonfinite, floor_nonfinite }
    }
}

impl Basis {
    fn new(
        layers: &[LayerDrift],
        logits: Option<(LogitMetrics, LogitMetrics)>,
        embedding: Option<(EmbeddingMetrics, EmbeddingMetrics)>,
    ) -> Self {
        if let Some((drift, floor)) = logits {
            return Self::Logits {
                kl_mean_nats: drift.kl_mean_nats,
                floor_kl_mean_nats: floor.kl_mean_nats,
                top1_agreement: drift.top1_agreement,
                ppl_a: drift.ppl_a,
                ppl_b: drift.ppl_b,
            };
        }
        if let Some((drift, floor)) = embedding {
            return Self::Embedding {
                distance_mean: drift.distance_mean,
                floor_distance_mean: floor.distance_mean,
                cosine_mean: drift.cosine_mean,
            };
        }
        let outputs =
            layers.iter().map(|l| (l.index, l.drift.output.rel_l2, l.floor.output.rel_l2));
        let farthest = outputs.max_by(|a, b| a.1.total_cmp(&b.1));
        let (layer, rel_l2, floor_rel_l2) = farthest.unwrap_or_default();
        Self::BlockOutput { layer, rel_l2, floor_rel_l2 }
    }

    /// The drift's figure and the floor's.
    fn pair(&self) -> (f64, f64) {
        match *self {
            Self::Logits { kl_mean_nats, floor_kl_mean_nats, .. } => {
                (kl_mean_nats, floor_kl_mean_nats)
            }
            Self::Embedding { distance_mean, floor_distance_mean, .. } => {
                (distance_mean, floor_distance_mean)
            }
            Self::BlockOutput { rel_l2, floor_rel_l2, .. } => (rel_l2, floor_rel_l2),
        }
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
            (f64::NAN, f64::NAN, Size::NotFinite),
            (1.0, f64::NAN, Size::FloorNotFinite),
            (1.0, f64::INFINITY, Size::FloorNotFinite),
            (0.0, f64::NAN, Size::None),
        ] {
            assert_eq!(Size::of(drift, floor), size, "{drift} {floor}");
        }
    }

    /// A side that is not finite decides, and a floor that is not leaves the drift as it is.
    #[test]
    fn what_is_not_finite() {
        let [none, a] = [false, true].map(|a| NonFinite { a, b: false });
        let size = |nonfinite| Verdict::new(1, &[], None, None, nonfinite).size;
        assert_eq!(size([none, none]), Size::None);
        assert_eq!(size([a, none]), Size::NotFinite);
        assert_eq!(size([none, a]), Size::None);
    }
}
