//! What reports are of.

use gemma_mlp_drift::drift::Drift;

/// A run under the name that tells it from others.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// Its name, such as that of its file.
    pub name: &'a str,
    /// What was measured.
    pub drift: &'a Drift,
}
