//! Where a tensor lies.

use crate::checkpoint::tensors::file::File;
use safetensors::Dtype;
use std::sync::Arc;

/// A tensor in a file.
#[derive(Clone)]
pub(in crate::checkpoint) struct Place {
    pub(in crate::checkpoint) file: Arc<File>,
    /// Where it begins, in bytes.
    pub(in crate::checkpoint) at: u64,
    pub(in crate::checkpoint) dtype: Dtype,
    pub(in crate::checkpoint) shape: Vec<usize>,
}

impl Place {
    /// How many elements it has.
    pub(in crate::checkpoint) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}
