//! Sizes beyond these are errors in a config. The largest Gemma (27B) has 5,376, 36,864 and 62.

/// Of the hidden size, the intermediate size, and all attention heads side by side.
pub(super) const MAX_WIDTH: usize = 1 << 20;
pub(in crate::checkpoint) const MAX_LAYERS: usize = 1 << 12;
pub(in crate::checkpoint) const MAX_VOCAB: usize = 1 << 24;
