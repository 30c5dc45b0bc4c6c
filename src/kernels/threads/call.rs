//! One caller's loop, and who is in it.

use super::sync::{
    AtomicBool, AtomicUsize, Mutex, Ordering, PoisonError, Thread, UnsafeCell, current, park,
    wait_briefly,
};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Takes items of a loop while a condition holds; returns whether it took the last one.
pub(super) type Work<'a> = dyn Fn(&dyn Fn() -> bool) -> bool + Sync + 'a;

/// What a thread's loops are shared through, one after the other.
pub(super) struct Call {
    /// [`OPEN`], [`WAITING`], and how many helpers are inside.
    state: AtomicUsize,
    /// The loop that runs. Only the caller writes it, while the state is 0; others read it only
    /// while they are inside.
    work: UnsafeCell<Option<*const Work<'static>>>,
    /// What a helper's piece panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    caller: Thread,
    /// Helpers that look after it, inside or between loops.
    pub attached: AtomicUsize,
    /// The most threads that callers and helpers may be.
    pub threads: AtomicUsize,
    /// The most helpers that the loop is worth.
    pub helpers: AtomicUsize,
    /// Whether the team knows it.
    pub posted: AtomicBool,
}

/// There may be items left: helpers may come in.
const OPEN: usize = 1 << 63;
/// The caller sleeps until the last helper has left.
const WAITING: usize = 1 << 62;
const INSIDE: usize = WAITING - 1;

// SAFETY: `work` alone is not `Send` and `Sync` by itself. What it points to is `Sync`, and is read
// by helpers only between `enter` and `leave`, during which the caller is in `run` (see there).
unsafe impl Send for Call {}
// SAFETY: as above.
unsafe impl Sync for Call {}

impl Call {
    /// A call of this thread's.
    pub fn new() -> Self {
        Self {
            state: AtomicUsize::new(0),
            work: UnsafeCell::new(None),
            panic: Mutex::new(None),
            caller: current(),
            attached: AtomicUsize::new(0),
            threads: AtomicUsize::new(1),
            helpers: AtomicUsize::new(0),
            posted: AtomicBool::new(false),
        }
    }

    /// Runs a loop on this thread, and on helpers that come in meanwhile; `invite` is called before
    /// each item of this thread's, when they can. Returns when all items are done.
    ///
    /// # Panics
    /// If the work does, here or on a helper.
    pub fn run(&self, work: &Work, invite: impl Fn()) {
        debug_assert_eq!(self.state.load(Ordering::Relaxed), 0);
        let work_of_any_lifetime: *const Work = work;
        // SAFETY: only the lifetime changes. Nobody calls `work` after it ends: helpers call it
        // while they are inside, and `Close` lets this function end, or unwind, only when nobody is
        // inside and nobody can come in. It is written while the state is 0, which no helper enters.
        self.work.with_mut(|work| unsafe {
            *work = Some(std::mem::transmute::<*const Work, *const Work<'static>>(
                work_of_any_lifetime,
            ));
        });
        self.state.store(OPEN, Ordering::SeqCst);
        let close = Close(self);
        work(&|| {
            invite();
            true
        });
        drop(close);
        let panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Whether a helper could come in.
    pub fn is_open(&self) -> bool {
        self.state.load(Ordering::SeqCst) & OPEN != 0
    }

    /// Takes a part in the loop that is open, if one is, while `go_on` says so. Returns whether it was.
    pub fn help(&self, go_on: &dyn Fn() -> bool) -> bool {
        let enter = |state: usize| (state & OPEN != 0).then_some(state + 1);
        if self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).is_err() {
            return false;
        }
        // SAFETY: this thread is inside, so that the caller is in `run`: `work` was written before
        // the state was opened, is not written meanwhile, and what it points to lives.
        let work = self.work.with(|work| unsafe { (*work).map(|work| &*work) });
        let result = catch_unwind(AssertUnwindSafe(|| work.is_some_and(|work| work(go_on))));
        match result {
            // Nobody else needs to look for items.
            Ok(true) => {
                self.state.fetch_and(!OPEN, Ordering::Relaxed);
            }
            Ok(false) => {}
            Err(panic) => {
                *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
            }
        }
        let before = self.state.fetch_sub(1, Ordering::AcqRel);
        if before & INSIDE == 1 && before & WAITING != 0 {
            self.caller.unpark();
        }
        true
    }
}

/// Closes a loop when the caller is through with it: waits for the helpers inside, each of which
/// ends the piece that it has in hand.
struct Close<'a>(&'a Call);

impl Drop for Close<'_> {
    fn drop(&mut self) {
        let state = &self.0.state;
        let left = || state.load(Ordering::Acquire) & INSIDE == 0;
        state.fetch_and(!OPEN, Ordering::AcqRel);
        if !wait_briefly(left) {
            state.fetch_or(WAITING, Ordering::AcqRel);
            while !left() {
                park();
            }
        }
        state.store(0, Ordering::Relaxed);
    }
}
