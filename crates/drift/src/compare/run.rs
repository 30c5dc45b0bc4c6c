//! Comparing a dump with a model or with another dump.

use super::allow::Allow;
use super::dump::Dump;
use super::result::Comparison;
use crate::error::{Error, Result};
use candle_core::{DType, Device};
use gemma_mlp::Checkpoint;
use std::ops::ControlFlow;

/// How to compare.
#[derive(Debug, Clone, Default)]
pub struct CompareOptions {
    /// Which layers to report, by index; empty for all.
    pub layers: Vec<usize>,
    /// The dtype that theirs was computed in, where the dump leaves it open.
    pub dtype: Option<DType>,
    /// How far points may differ, by patterns of their names.
    pub allow: Vec<Allow>,
    /// Other frameworks' dumps on the same tokens, whose spread widens the floor.
    pub references: Vec<Dump>,
}

/// Theirs against our model.
///
/// # Errors
/// Not there yet.
pub fn compare(
    _theirs: &Dump,
    _checkpoint: &Checkpoint,
    _options: &CompareOptions,
    _device: &Device,
    _progress: impl FnMut(f64) -> ControlFlow<()>,
) -> Result<Comparison> {
    Err(Error::NoIds)
}

/// Theirs against another dump.
///
/// # Errors
/// Not there yet.
pub fn compare_dumps(
    _theirs: &Dump,
    _ours: &Dump,
    _options: &CompareOptions,
    _progress: impl FnMut(f64) -> ControlFlow<()>,
) -> Result<Comparison> {
    Err(Error::NoIds)
}
