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
mod lanes;
mod place;
mod sync;
mod team;

use call::{Call, Work};
use lanes::Lanes;
use place::{PLACE, Role};
use std::sync::Arc;
use std::time::{Duration, Instant};
use team::Team;

/// How long a loop takes at least, in nanoseconds, for each helper that is woken for it, if the last call
/// is long over: to wake a core that has gone to sleep takes a tenth of a millisecond on a virtual machine.
const WORTH_WAKING: usize = 150_000;

/// How long a loop takes at least, in nanoseconds, for each helper that is woken for it, if the call
/// follows the last one at once, as its successor is likely to do: after it, the helper will still be
/// awake.
const WORTH_WAKING_AGAIN: usize = 25_000;

/// A loop that ends so soon, in nanoseconds, is not shared if no core is free when it begins. In a longer
/// one a helper can come later.
const SHORT: usize = 2_000_000;

/// What is at once.
const AT_ONCE: Duration = Duration::from_micros(50);

/// How many threads a call may be shared by, the caller's among them: as many as rayon's pool has.
pub fn available() -> usize {
    rayon::current_num_threads()
}

/// How many threads are likely to share the call that this thread is in: its own, and cores that no other
/// caller has.
pub fn likely() -> usize {
    available().saturating_sub(Team::get().callers().max(1)) + 1
}

/// Runs one operation of a few loops. Helpers stay for all of them, and look for the caller's next one for
/// 10 µs: less than it would take to go to sleep and be woken.
pub fn operation<R>(f: impl FnOnce() -> R) -> R {
    let _calling = Calling::one_operation();
    f()
}

/// Runs many operations whose loops may take some microseconds only. Helpers stay awake between them,
/// until there has been nothing to do for 200 µs, and go to sleep when `f` ends.
pub fn awake<R>(f: impl FnOnce() -> R) -> R {
    let _calling = Calling::begin(0);
    f()
}

/// Has the helpers of an [`awake`] call awake, as they are in the middle of a model: a millisecond for each
/// thread.
pub fn rouse() {
    let end = Instant::now() + Duration::from_millis(1);
    for_each(0, 0..available(), |_| {
        while Instant::now() < end {
            std::thread::yield_now();
        }
    });
}

/// This thread is in a call; it ends with this, also if it panics.
struct Calling;

impl Calling {
    /// None if it is in a call already.
    fn begin(worth_waking: usize) -> Option<Self> {
        if PLACE.with(|place| place.role.get()) != Role::Outside {
            return None;
        }
        Team::get().begin();
        PLACE.with(|place| place.role.set(Role::Calling { worth_waking }));
        Some(Self)
    }

    fn one_operation() -> Option<Self> {
        let at_once = |last: Instant| last.elapsed() < AT_ONCE;
        let again = PLACE.with(|place| place.last.get()).is_some_and(at_once);
        Self::begin(if again { WORTH_WAKING_AGAIN } else { WORTH_WAKING })
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        PLACE.with(|place| {
            place.role.set(Role::Outside);
            place.last.set(Some(Instant::now()));
            Team::get().end(place.call.get());
        });
    }
}

/// Calls `body` with every item, on this thread and its helpers. Which thread takes which is left open.
/// `nanoseconds` is what the loop takes one thread, roughly.
///
/// # Panics
/// If `body` does, on whichever thread.
pub fn for_each<T: Send>(
    nanoseconds: usize,
    items: impl Iterator<Item = T> + Send,
    body: impl Fn(T) + Sync,
) {
    for_each_with(nanoseconds, items, || (), |(), item| body(item));
}

/// Calls `body` with every item, on this thread and its helpers, and with what `init` makes for every
/// thread before its first item. Otherwise [`for_each`].
pub fn for_each_with<T: Send, S>(
    nanoseconds: usize,
    items: impl Iterator<Item = T> + Send,
    init: impl Fn() -> S + Sync,
    body: impl Fn(&mut S, T) + Sync,
) {
    // By reference, so that the compiler makes each body once, and what is around it once for many of them.
    let (init, body): (&Init<S>, &Body<S, T>) = (&init, &body);
    let one = items.size_hint().1.is_some_and(|most| most <= 1);
    if one || PLACE.with(|place| place.role.get()) == Role::Working || available() == 1 {
        return alone(items, init, body);
    }
    let _calling = Calling::one_operation();
    let working = Working::begin();
    if working.has_no_core_free(nanoseconds) {
        return alone(items, init, body);
    }
    let lanes = Lanes::new(items, working.threads);
    working.share(nanoseconds, &|go_on| {
        let (mut lane, mut state) = (None, None);
        while go_on() {
            let Some(item) = lanes.take(&mut lane) else { return true };
            body(state.get_or_insert_with(init), item);
        }
        false
    });
}

type Init<'a, S> = dyn Fn() -> S + Sync + 'a;
type Body<'a, S, T> = dyn Fn(&mut S, T) + Sync + 'a;

/// The loop on this thread.
fn alone<T, S>(items: impl Iterator<Item = T>, init: &Init<S>, body: &Body<S, T>) {
    let mut state = None;
    items.for_each(|item| body(state.get_or_insert_with(init), item));
}

/// This thread runs a loop of a call's; with this it gets its role back, also after a panic.
struct Working {
    /// What it had to do with loops before.
    role: Role,
    /// The most threads that may run the loop.
    threads: usize,
}

impl Working {
    fn begin() -> Self {
        let role = PLACE.with(|place| place.role.replace(Role::Working));
        Self { role, threads: available() }
    }

    /// Whether a loop is over before a core could come free.
    fn has_no_core_free(&self, nanoseconds: usize) -> bool {
        nanoseconds < SHORT && Team::get().callers() >= self.threads
    }

    /// Runs the loop here and on helpers.
    fn share(&self, nanoseconds: usize, work: &Work) {
        let helpers = match self.role {
            Role::Calling { worth_waking: 0 } => usize::MAX,
            Role::Calling { worth_waking } => nanoseconds / worth_waking,
            Role::Outside | Role::Working => 0,
        };
        PLACE.with(|place| {
            let call = place.call.get_or_init(|| Arc::new(Call::new()));
            call.run(work, || {
                if helpers > 0 {
                    Team::get().invite(call, self.threads, helpers);
                }
            });
        });
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        PLACE.with(|place| place.role.set(self.role));
    }
}

/// What `f` makes of every item, in their order.
pub fn map<T: Send, R: Send>(
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
