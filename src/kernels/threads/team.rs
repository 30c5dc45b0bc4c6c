//! The helpers: threads that sleep unless a caller has items to share and a core is free.

use super::call::Call;
use super::place::{PLACE, Role};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a helper stays awake in a call that has nothing to do for it. Longer than what lies between
/// two loops of a model, shorter than anyone would notice.
const PATIENCE: Duration = Duration::from_micros(200);

/// How long a helper stays awake behind the end of a call: less than it takes to fall asleep and be
/// woken.
const BETWEEN_CALLS: Duration = Duration::from_micros(10);

/// All helpers of the process.
pub(super) struct Team {
    /// Calls that are in progress.
    callers: AtomicUsize,
    /// Helpers that are awake for a call.
    busy: AtomicUsize,
    /// Helpers that can be woken.
    asleep: AtomicUsize,
    inner: Mutex<Inner>,
    wake: Condvar,
}

#[derive(Default)]
struct Inner {
    /// Calls that had something to share.
    posted: Vec<Arc<Call>>,
    /// Helpers that there are.
    helpers: usize,
    /// The system gives no more threads.
    full: bool,
}

impl Team {
    pub fn get() -> &'static Self {
        static TEAM: OnceLock<Team> = OnceLock::new();
        TEAM.get_or_init(|| Self {
            callers: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            asleep: AtomicUsize::new(0),
            inner: Mutex::default(),
            wake: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins.
    pub fn begin(&self) {
        self.callers.fetch_add(1, Ordering::SeqCst);
    }

    /// Calls that are in progress.
    pub fn callers(&self) -> usize {
        self.callers.load(Ordering::SeqCst)
    }

    /// A call ends.
    pub fn end(&self, call: Option<&Arc<Call>>) {
        self.callers.fetch_sub(1, Ordering::SeqCst);
        if let Some(call) = call.filter(|call| call.posted.swap(false, Ordering::Relaxed)) {
            self.lock().posted.retain(|posted| !Arc::ptr_eq(posted, call));
        }
    }

    /// Lets helpers know of a loop that is open, and wakes one, who wakes the next.
    pub fn invite(&'static self, call: &Arc<Call>, threads: usize, helpers: usize) {
        call.threads.store(threads, Ordering::Relaxed);
        call.helpers.store(helpers.min(threads - 1), Ordering::Relaxed);
        if !call.posted.load(Ordering::Relaxed) {
            call.posted.store(true, Ordering::Relaxed);
            self.lock().posted.push(call.clone());
        }
        if self.has_room(call) {
            self.fetch(self.lock(), threads);
        }
    }

    /// Wakes a helper, or makes one if all are awake and fewer than that many threads would need.
    fn fetch(&'static self, mut inner: MutexGuard<'_, Inner>, threads: usize) {
        if self.asleep.load(Ordering::SeqCst) > 0 {
            self.wake.notify_one();
        } else if inner.helpers + 1 < threads && !inner.full {
            let thread = thread::Builder::new().name(format!("gemma-mlp-{}", inner.helpers));
            match thread.spawn(|| self.serve()) {
                Ok(_) => inner.helpers += 1,
                Err(_) => inner.full = true,
            }
        }
    }

    /// Whether one more thread may work on a call.
    fn has_room(&self, call: &Call) -> bool {
        let threads = call.threads.load(Ordering::Relaxed);
        let running = self.callers.load(Ordering::SeqCst) + self.busy.load(Ordering::SeqCst);
        let attached = call.attached.load(Ordering::Relaxed);
        running < threads && attached < call.helpers.load(Ordering::Relaxed)
    }

    /// The call that most needs a helper.
    fn pick<'a>(&self, inner: &'a Inner) -> Option<&'a Arc<Call>> {
        let open = inner.posted.iter().filter(|call| call.is_open() && self.has_room(call));
        open.min_by_key(|call| call.attached.load(Ordering::Relaxed))
    }

    /// What a helper does all its life.
    fn serve(&'static self) {
        PLACE.with(|place| place.role.set(Role::Working));
        let mut inner = self.lock();
        loop {
            let Some(call) = self.pick(&inner).cloned() else {
                // Counted before it looks once more: whoever opens a loop after that look sees that
                // there is somebody to wake.
                self.asleep.fetch_add(1, Ordering::SeqCst);
                if self.pick(&inner).is_none() {
                    inner = self.wake.wait(inner).unwrap_or_else(PoisonError::into_inner);
                }
                self.asleep.fetch_sub(1, Ordering::SeqCst);
                continue;
            };
            call.attached.fetch_add(1, Ordering::Relaxed);
            self.busy.fetch_add(1, Ordering::SeqCst);
            if self.pick(&inner).is_some() {
                self.fetch(inner, call.threads.load(Ordering::Relaxed));
            } else {
                drop(inner);
            }
            self.attend(&call);
            inner = self.lock();
            call.attached.fetch_sub(1, Ordering::Relaxed);
            self.busy.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Helps with a call's loops until it ends, there is nothing to do, or its core is wanted.
    fn attend(&self, call: &Call) {
        let stays = || {
            let running = self.callers.load(Ordering::Relaxed) + self.busy.load(Ordering::Relaxed);
            running <= call.threads.load(Ordering::Relaxed)
        };
        let mut last = Instant::now();
        while stays() {
            let patience =
                if call.posted.load(Ordering::Relaxed) { PATIENCE } else { BETWEEN_CALLS };
            if call.help(&stays) {
                last = Instant::now();
            } else if last.elapsed() > patience {
                return;
            } else {
                thread::yield_now();
            }
        }
    }
}
