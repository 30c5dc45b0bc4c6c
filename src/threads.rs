//! Where work runs.

/// Runs `f` on one of rayon's threads, here if this is one. A thread outside would be put to sleep and
/// woken around every parallel loop inside `f`.
pub(crate) fn on_a_worker<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}
