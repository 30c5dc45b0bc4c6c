//! What the crates of this workspace share beyond the library's interface. It changes without notice.
#![allow(missing_docs)]

use crate::checkpoint::Checkpoint;
use crate::error::Result;

pub use crate::checkpoint::tokenizer::guard::is_guarded;
pub use crate::error::Line;
pub use crate::kernels::activation::{activate_by_candle, activation_truth};
pub use crate::kernels::exp::{exp, vectorized};
pub use crate::kernels::linear::rows::Rows;
pub use crate::kernels::linear::should_pack;
pub use crate::kernels::memory::on_large_pages;
pub use crate::kernels::number::{nearest_bf16, widen_bf16};
pub use crate::kernels::operands::{slice, with_slice};
pub use crate::kernels::threads;
pub use crate::model::load::load_norm;
pub use crate::model::norm::wide_dtype;

/// A checkpoint in memory, for fuzzing.
pub fn checkpoint_from_bytes(config: &str, weights: Vec<u8>) -> Result<Checkpoint> {
    Checkpoint::from_bytes(config, weights)
}

/// How many shards and tensors an index lists, for fuzzing.
pub fn parse_index(json: &str) -> Result<(usize, usize)> {
    crate::checkpoint::parse_index(json)
}
