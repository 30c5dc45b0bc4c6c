//! Token ids for models, and noise for blocks.

mod gaussian;
mod ids;
mod json;
mod remarks;
mod texts;

pub use gaussian::{InputKind, gaussian_input};
pub use ids::TokenIds;
pub use json::parse_ids;
pub use texts::Texts;

pub(crate) use ids::check_ids;
pub(crate) use remarks::{both_read, source_remark, text_remarks, without_texts};
