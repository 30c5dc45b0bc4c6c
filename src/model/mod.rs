//! Gemma around the block: so far what stands between token ids and the first layer's MLP, and
//! one block at a time on its input.

mod attention;
mod embedding;
mod forward;
mod ids;
mod input;
mod layer;
mod load;
mod norm;
mod rope;
mod summary;

pub use attention::Attention;
pub use embedding::embed;
pub use forward::{BlockForward, ForwardOptions, forward_block, forward_blocks, save_blocks};
pub use ids::TokenIds;
pub use input::{InputKind, mlp_input};
pub use layer::LayerFront;
pub use load::load_mlp;
pub use norm::RmsNorm;
pub use rope::RotaryEmbedding;
pub use summary::{BlockSummary, ForwardSummary, Stats};
