//! Gemma around the block: the decoder, out of parts of which each can be used alone, and forward
//! passes that show what happens inside.

mod attention;
mod embedding;
mod forward;
mod gemma;
mod head;
mod identity;
mod ids;
mod input;
mod layer;
mod load;
mod norm;
mod observer;
mod rope;
mod summary;
mod top;

pub use attention::{Attention, KeyValues};
pub use embedding::Embedding;
pub(crate) use embedding::rounded;
pub use forward::{Forward, ForwardOptions, forward};
pub use gemma::{Cache, Gemma};
pub use head::Head;
pub use ids::{TokenIds, parse_ids};
pub use input::{InputKind, gaussian_input};
pub use layer::Layer;
pub use load::load_mlp;
pub(crate) use norm::wide_dtype;
pub use norm::{NormRounding, RmsNorm};
pub use observer::{Block, Observer};
pub use rope::{RopeRounding, RotaryEmbedding};
pub use summary::{BlockSummary, ForwardSummary, Stats, TopToken};
pub use top::top_tokens;
