//! Token ids for models, and noise for blocks.

mod gaussian;
mod ids;

pub use gaussian::{InputKind, gaussian_input};
pub use ids::{TokenIds, parse_ids};
