//! What tells models and layers apart.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that nothing else in the process has. A clone has it too: it is the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity(u64);

impl Identity {
    /// Another one than all before.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}
