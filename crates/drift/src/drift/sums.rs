//! What a window adds to the figures of a run.

use super::embedding::EmbeddingSums;
use super::layers::LayerSums;
use super::logits::LogitSums;
use super::positions::Notable;
use serde::{Deserialize, Serialize};

/// The sums of one window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub(super) struct WindowSums {
    /// Which of all windows.
    pub(super) index: usize,
    /// Scored positions.
    pub(super) positions: usize,
    /// Those of them that the floor is measured on.
    pub(super) floor_positions: usize,
    /// One for each reported layer.
    pub(super) layers: Vec<LayerSums>,
    /// Of the pair, of the floor, and of the pair's b against the floor's a.
    pub(super) logits: Option<[LogitSums; 3]>,
    /// Where there are no logits: hidden states and embeddings of the pair, and of the floor.
    pub(super) embedding: Option<[EmbeddingSums; 2]>,
    /// Positions that are shown one by one.
    pub(super) notable: Notable,
}
