//! Loops that a caller and helpers run together.
//!
//! Whoever calls runs its own loop, on its own thread, from the first piece to the last. Helpers,
//! threads of this crate's own, take pieces too, if the machine has cores left. A caller's thread
//! never runs another caller's work, and never waits for more than the piece that a helper has in
//! hand. So callers get on with each other as threads do: the operating system shares the cores out
//! among them. (rayon's threads, which this was built on once, take up any work while they wait. Of
//! eight callers one then waited ten seconds for a block that takes a hundredth of that.)
//!
//! Callers and helpers are together no more threads than rayon's pool has: `RAYON_NUM_THREADS`, or
//! the pool that the caller is in. As many callers as that have no helpers at all.

mod call;
mod sync;
mod team;

use call::Call;
use std::cell::{Cell, OnceCell};
use std::sync::{Arc, Mutex, PoisonError};
use team::Team;

/// How long a loop takes at least that a sleeping helper is woken for, in nanoseconds: waking takes
/// a tenth of it.
const WORTH_WAKING: usize = 100_000;

thread_local! {
    static PLACE: Place = const { Place { role: Cell::new(Role::Outside), call: OnceCell::new() } };
}

/// What a thread has to do with loops.
struct Place {
    role: Cell<Role>,
    /// Made when the thread first calls, and used for all its calls.
    call: OnceCell<Arc<Call>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Nothing yet.
    Outside,
    /// It is in a call, between loops. `eager`: helpers are woken for loops of any length.
    Calling { eager: bool },
    /// It runs pieces of a loop, its own or, as a helper, somebody's. Loops in there are its alone.
    Working,
}

/// How many threads a call may be shared by, the caller's among them: as many as rayon's pool has.
pub(crate) fn available() -> usize {
    rayon::current_num_threads()
}

/// Runs one operation of a few loops. Helpers stay for all of them, and not beyond.
pub(crate) fn operation<R>(f: impl FnOnce() -> R) -> R {
    call(false, f)
}

/// Runs many operations whose loops may take some microseconds only. Helpers stay awake between them,
/// until there has been nothing to do for 200 µs; when `f` ends, they go to sleep at once.
pub(crate) fn awake<R>(f: impl FnOnce() -> R) -> R {
    call(true, f)
}

fn call<R>(eager: bool, f: impl FnOnce() -> R) -> R {
    /// Ends a call, also if it panics.
    struct End;
    impl Drop for End {
        fn drop(&mut self) {
            PLACE.with(|place| {
                place.role.set(Role::Outside);
                Team::get().end(place.call.get());
            });
        }
    }
    if PLACE.with(|place| place.role.get()) != Role::Outside {
        return f();
    }
    Team::get().begin();
    PLACE.with(|place| place.role.set(Role::Calling { eager }));
    let _end = End;
    f()
}

/// Calls `body` with every item, in pieces that this thread and its helpers take one after the other.
/// Which thread takes which is left open. `nanoseconds` is what the loop takes one thread, roughly.
///
/// # Panics
/// If `body` does, on whichever thread.
pub(crate) fn for_each<T: Send>(
    nanoseconds: usize,
    items: impl Iterator<Item = T> + Send,
    body: impl Fn(T) + Sync,
) {
    for_each_with(nanoseconds, items, || (), |(), item| body(item));
}

/// As [`for_each`], with something that every thread makes before its first item, and uses again.
pub(crate) fn for_each_with<T: Send, S>(
    nanoseconds: usize,
    items: impl Iterator<Item = T> + Send,
    init: impl Fn() -> S + Sync,
    body: impl Fn(&mut S, T) + Sync,
) {
    let one = items.size_hint().1.is_some_and(|most| most <= 1);
    if one || PLACE.with(|place| place.role.get()) == Role::Working || available() == 1 {
        let mut state = None;
        return items.for_each(|item| body(state.get_or_insert_with(&init), item));
    }
    let items = Mutex::new(items);
    let work = |go_on: &dyn Fn() -> bool| {
        let mut state = None;
        while go_on() {
            let item = items.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(item) = item else { return true };
            body(state.get_or_insert_with(&init), item);
        }
        false
    };
    operation(|| {
        PLACE.with(|place| {
            let role = place.role.get();
            let worth = role == Role::Calling { eager: true } || nanoseconds >= WORTH_WAKING;
            let call = place.call.get_or_init(|| Arc::new(Call::new()));
            let _back = Back { place, role };
            place.role.set(Role::Working);
            call.run(&work, || {
                if worth {
                    Team::get().invite(call, available());
                }
            });
        });
    });
}

/// Gives a thread its role back, also after a panic.
struct Back<'a> {
    place: &'a Place,
    role: Role,
}

impl Drop for Back<'_> {
    fn drop(&mut self) {
        self.place.role.set(self.role);
    }
}

/// What `f` makes of every item, in their order.
pub(crate) fn map<T: Send, R: Send>(
    nanoseconds: usize,
    items: impl Iterator<Item = T> + Send,
    f: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let items: Vec<T> = items.collect();
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let places = results.iter_mut().zip(items);
    for_each(nanoseconds, places, |(result, item)| *result = Some(f(item)));
    results.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests;
