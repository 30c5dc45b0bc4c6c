//! Gemma around the block: the decoder, out of parts of which each can be used alone.

mod attention;
mod embedding;
mod gemma;
mod head;
mod identity;
mod layer;
pub(crate) mod load;
pub(crate) mod norm;
mod observer;
mod rope;
mod variation;

pub use attention::{Attention, AttentionRounding, KeyValues};
pub use embedding::Embedding;
pub use gemma::{Cache, Gemma};
pub use head::Head;
pub use layer::Layer;
pub use load::load_mlp;
pub use norm::{NormRounding, RmsNorm};
pub use observer::{Block, Observer};
pub use rope::{RopeRounding, RotaryEmbedding};
pub use variation::Variation;
