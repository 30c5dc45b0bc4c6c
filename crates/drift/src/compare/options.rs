//! What to compare with, and how far it may be.

use super::allow::Allow;
use super::dump::Dump;
use crate::drift::Difference;
use candle_core::DType;

/// How to compare a dump.
#[derive(Debug, Clone, Default)]
pub struct CompareOptions {
    /// Which layers to report, by index; all if it is empty.
    pub layers: Vec<usize>,
    /// The dtype that theirs was computed in, where the dump leaves it open or is wrong about it.
    pub dtype: Option<DType>,
    /// Points that may be farther from ours than rounding brings them; the last rule about a point counts.
    pub allow: Vec<Allow>,
    /// Other frameworks' dumps on the same tokens, whose own spread widens the floor.
    pub references: Vec<Dump>,
    /// Mistakes that are put into ours first, one on top of the other, to find what is behind them.
    pub with: Vec<&'static Difference>,
    /// Whether ours rounds what the framework of theirs is known to round, so that this is no part of what differs. Of
    /// llama.cpp alone.
    pub like_theirs: bool,
    /// The tokens that should have been run, if the dump's own are to be checked.
    pub tokens: Option<Vec<u32>>,
}
