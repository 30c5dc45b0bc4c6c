//! What the crates of this workspace share beyond the library's interface. It changes without notice.
#![allow(missing_docs)]

use crate::checkpoint::{Checkpoint, Tensors};
use crate::error::Result;

#[cfg(feature = "hub")]
pub use crate::checkpoint::hub::server::{Answer, Server};
pub use crate::checkpoint::json::{is_lfs_pointer, parse_json, read_text};
pub use crate::checkpoint::remark::Names as FewNames;
pub use crate::checkpoint::tensors::{File, Numbers};
pub use crate::checkpoint::tokenizer::guard::is_guarded;
pub use crate::error::Line;
pub use crate::kernels::activation::{activate_by_candle, activation_truth};
pub use crate::kernels::exp::{exp, vectorized};
pub use crate::kernels::linear::quantised::quantise;
pub use crate::kernels::linear::rows::Rows;
pub use crate::kernels::linear::should_pack;
pub use crate::kernels::memory::on_large_pages;
pub use crate::kernels::number::{nearest_bf16, wide_dtype, widen_bf16};
pub use crate::kernels::operands::{slice, with_slice};
pub use crate::kernels::threads;
pub use crate::model::load::load_norm;

/// A checkpoint in memory, for fuzzing.
pub fn checkpoint_from_bytes(config: &str, weights: Vec<u8>) -> Result<Checkpoint> {
    Checkpoint::from_bytes(config, weights)
}

/// A GGUF file in memory, for fuzzing.
pub fn checkpoint_from_gguf(bytes: Vec<u8>) -> Result<Checkpoint> {
    Checkpoint::from_gguf(bytes)
}

/// A safetensors file in memory, for fuzzing.
pub fn tensors_from_bytes(weights: Vec<u8>) -> Result<Tensors> {
    Tensors::from_bytes("memory/model.safetensors".as_ref(), weights)
}

/// The ids of a text, and the text of ids, by a `tokenizer.json` in memory, for fuzzing.
pub fn tokenize(json: Vec<u8>, text: &str, ids: &[u32]) -> (Result<Vec<u32>>, Result<String>) {
    crate::checkpoint::tokenize(json, text, ids)
}

/// The text of one token, special ones included.
pub fn token_text(checkpoint: &Checkpoint, id: u32) -> Result<String> {
    checkpoint.token_text(id)
}

/// The `tokenizer.json` that a checkpoint's texts are read with.
pub fn tokenizer_json(checkpoint: &Checkpoint) -> Result<Vec<u8>> {
    checkpoint.tokenizer_json()
}

/// How many shards and tensors an index lists, for fuzzing.
pub fn parse_index(json: &str) -> Result<(usize, usize)> {
    crate::checkpoint::parse_index(json)
}
