//! Gemma around the block: the decoder, and an encoder beside it, out of parts of which each can be used alone.

mod altup;
mod attention;
mod cache;
mod embedding;
mod encoder_decoder;
mod gemma;
mod head;
mod identity;
mod layer;
pub(crate) mod load;
mod mixture;
pub(crate) mod norm;
mod observer;
mod pass;
mod per_layer;
mod recurrent;
mod rope;
mod stored_inputs;
mod variation;

pub use attention::{
    Attention, AttentionRounding, Beside, CrossAttention, Encoded, EncoderKeys, KeyValues, Keys,
    Padding,
};
pub use cache::Cache;
pub use embedding::Embedding;
pub use encoder_decoder::EncoderDecoder;
pub use gemma::Gemma;
pub use head::Head;
pub use layer::{Attended, CrossBlock, Layer, LayerVariables, Leaving};
pub use load::load_mlp;
pub use mixture::ExpertsBranch;
pub use norm::{NormRounding, RmsNorm};
pub use observer::{Block, Observer};
pub use pass::Pass;
pub use per_layer::PerLayerBlock;
pub use recurrent::{RecurrentBlock, RecurrentState};
pub use rope::{PartialRope, RopeRounding, RotaryEmbedding};
pub use variation::Variation;
