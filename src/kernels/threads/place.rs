//! What a thread has to do with loops.

use super::call::Call;
use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use std::time::Instant;

thread_local! {
    pub(super) static PLACE: Place = const {
        Place { role: Cell::new(Role::Outside), call: OnceCell::new(), last: Cell::new(None) }
    };
}

/// A thread's own.
pub(super) struct Place {
    pub role: Cell<Role>,
    /// Made when the thread first calls, and used for all its calls.
    pub call: OnceCell<Arc<Call>>,
    /// When its last call ended.
    pub last: Cell<Option<Instant>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Nothing yet.
    Outside,
    /// It is in a call, between loops. A helper is woken for every so many nanoseconds of these.
    Calling { worth_waking: usize },
    /// It runs pieces of a loop, its own or, as a helper, somebody's. Loops in there are its alone.
    Working,
}
