//! Token ids for models, and noise for blocks.

mod gaussian;
mod ids;
mod json;

pub use gaussian::{InputKind, gaussian_input};
pub use ids::TokenIds;
pub use json::parse_ids;

pub(crate) use ids::check_ids;
