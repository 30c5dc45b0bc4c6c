//! Drift of what an encoder is used for: its hidden states, and the texts' embeddings.

use super::logits::nans_from_nulls;
use super::metrics::{Accumulator, Metrics, nan_from_null};
use crate::error::Result;
use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

/// How far two sides' embeddings are apart: of each window the mean over its tokens, of unit length.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct EmbeddingMetrics {
    /// How many windows there are, with an embedding each.
    pub windows: usize,
    /// Of the normed hidden states at all scored positions.
    pub hidden: Metrics,
    /// The distance between both sides' embeddings of a window, on average.
    #[serde(deserialize_with = "nan_from_null")]
    pub distance_mean: f64,
    /// The largest.
    #[serde(deserialize_with = "nan_from_null")]
    pub distance_max: f64,
    /// The cosine between both sides' embeddings of a window, on average.
    #[serde(deserialize_with = "nan_from_null")]
    pub cosine_mean: f64,
    /// The smallest.
    #[serde(deserialize_with = "nan_from_null")]
    pub cosine_min: f64,
}

/// What windows add to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub(super) struct EmbeddingSums {
    pub(super) hidden: Accumulator,
    /// Of each window.
    #[serde(deserialize_with = "nans_from_nulls")]
    pub(super) distances: Vec<f64>,
    #[serde(deserialize_with = "nans_from_nulls")]
    pub(super) cosines: Vec<f64>,
}

impl EmbeddingSums {
    /// Of one window: normed hidden states of its scored positions, of equal shapes, and embeddings, `[1, dim]`.
    pub(super) fn of(hidden: [&Tensor; 2], embeddings: [&Tensor; 2]) -> Result<Self> {
        let [a, b] = embeddings.map(|x| x.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>());
        let (a, b) = (a?, b?);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let squares = a.iter().zip(&b).map(|(a, b)| (b - a).powi(2)).sum::<f64>();
        Ok(Self {
            hidden: Accumulator::of(hidden[0], hidden[1])?,
            distances: vec![squares.sqrt()],
            cosines: vec![dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()],
        })
    }

    /// Adds those of another window, which follows.
    pub(super) fn merge(&mut self, other: &Self) {
        self.hidden.merge(&other.hidden);
        self.distances.extend(&other.distances);
        self.cosines.extend(&other.cosines);
    }

    pub(super) fn metrics(&self) -> EmbeddingMetrics {
        let Self { hidden, distances, cosines } = self;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        // NaN stays, which is none of the largest or smallest.
        let extreme = |values: &[f64], larger: fn(f64, f64) -> f64| {
            let pick = |a: f64, b: f64| if a.is_nan() { a } else { larger(a, b) };
            values.iter().copied().reduce(pick).unwrap_or(f64::NAN)
        };
        let max = |a: f64, b: f64| if b > a || b.is_nan() { b } else { a };
        let min = |a: f64, b: f64| if b < a || b.is_nan() { b } else { a };
        EmbeddingMetrics {
            windows: distances.len(),
            hidden: hidden.metrics(),
            distance_mean: mean(distances),
            distance_max: extreme(distances, max),
            cosine_mean: mean(cosines),
            cosine_min: extreme(cosines, min),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn by_hand() -> Result<()> {
        let of = |a: [f32; 2], b: [f32; 2]| {
            let [a, b] = [a, b].map(|x| Tensor::new(&[x], &Device::Cpu));
            let (a, b) = (a?, b?);
            EmbeddingSums::of([&a, &b], [&a, &b])
        };
        let mut sums = of([1.0, 0.0], [0.0, 1.0])?;
        sums.merge(&of([1.0, 0.0], [1.0, 0.0])?);
        let metrics = sums.metrics();
        assert_eq!((metrics.windows, metrics.cosine_mean, metrics.cosine_min), (2, 0.5, 0.0));
        assert_eq!(metrics.distance_max, 2f64.sqrt());
        assert_eq!(metrics.distance_mean, 2f64.sqrt() / 2.0);
        sums.merge(&of([f32::NAN, 0.0], [1.0, 0.0])?);
        sums.merge(&of([1.0, 0.0], [1.0, 0.0])?);
        let metrics = sums.metrics();
        assert!(metrics.distance_max.is_nan() && metrics.cosine_min.is_nan());
        Ok(())
    }
}
