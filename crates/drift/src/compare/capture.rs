//! What our own model computes, as a dump.

use super::point::Point;
use crate::error::{Error, Result};
use crate::input::TokenIds;
use candle_core::{DType, Device};
use gemma_mlp::checkpoint::{Remark, Resolved};
use gemma_mlp::{Activation, Checkpoint};
use serde::Serialize;
use std::io::{self, Write};
use std::ops::ControlFlow;

/// What to capture.
pub struct CaptureOptions<'a> {
    /// The activation; `None` for what the config means.
    pub activation: Option<Activation>,
    /// What to compute in.
    pub dtype: DType,
    /// Which layers to keep, by index; empty for all.
    pub layers: Vec<usize>,
    /// Which points to keep.
    pub points: &'a dyn Fn(Point) -> bool,
}

/// A dump of our own.
pub struct Capture {
    /// What is in it.
    pub summary: CaptureSummary,
}

/// What a dump of our own holds.
#[derive(Debug, Clone, Serialize)]
pub struct CaptureSummary {
    /// Where the checkpoint comes from.
    pub checkpoint: String,
    /// What was computed in.
    pub dtype: String,
    /// The activation that was run, with the reason.
    pub activation: Resolved<Activation>,
    /// How many texts.
    pub texts: usize,
    /// How many tokens each has.
    pub tokens: usize,
    /// Points by their name within a layer, and in how many layers each was kept.
    pub points: Vec<(String, usize)>,
    /// About the checkpoint and the texts.
    pub remarks: Vec<Remark>,
}

/// Runs a checkpoint and keeps what it computes.
///
/// # Errors
/// Not there yet.
pub fn capture(
    _checkpoint: &Checkpoint,
    _ids: &TokenIds,
    _options: &CaptureOptions,
    _device: &Device,
    _progress: impl FnMut(f64) -> ControlFlow<()>,
) -> Result<Capture> {
    Err(Error::NoIds)
}

impl Capture {
    /// Writes the dump.
    ///
    /// # Errors
    /// The writer's.
    pub fn write_to(&self, _to: impl Write) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
