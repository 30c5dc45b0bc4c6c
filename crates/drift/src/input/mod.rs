//! Token ids for models, and noise for blocks.

mod gaussian;
mod ids;
mod remarks;

pub use gaussian::{InputKind, gaussian_input};
pub use ids::{TokenIds, parse_ids};
pub(crate) use remarks::{text_remarks, without_texts};
