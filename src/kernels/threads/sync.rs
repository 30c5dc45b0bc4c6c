//! What the protocol of a call is made of. tests/threads.rs puts loom's in its place, which tries every
//! order of events.

use std::cell;
pub use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
pub use std::sync::{Mutex, PoisonError};
pub use std::thread::{Thread, current, park};
use std::time::{Duration, Instant};
use std::{hint, thread};

/// [`std::cell::UnsafeCell`] as loom has it.
pub struct UnsafeCell<T>(cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub fn new(value: T) -> Self {
        Self(cell::UnsafeCell::new(value))
    }

    pub fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    pub fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

/// Waits for something that is likely to come true soon; returns whether it has.
pub fn wait_briefly(come_true: impl Fn() -> bool) -> bool {
    /// Looks without a pause, and how long to look in between others' turns.
    const LOOKS: usize = 100;
    const PATIENCE: Duration = Duration::from_micros(200);
    for _ in 0..LOOKS {
        if come_true() {
            return true;
        }
        hint::spin_loop();
    }
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if come_true() {
            return true;
        }
        thread::yield_now();
    }
    false
}
