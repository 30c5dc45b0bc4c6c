//! What a model or a block is run on.

mod gaussian;
mod ids;

pub use gaussian::{InputKind, gaussian_input};
pub use ids::{TokenIds, parse_ids};
