//! Where work runs, and who stays awake for it.

use std::cell::Cell;
use std::thread;
use std::time::{Duration, Instant};

/// Runs `f` on one of rayon's threads, here if this is one. A thread outside would be put to sleep and
/// woken around every parallel loop inside `f`.
pub(crate) fn on_a_worker<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

thread_local! {
    /// Whether this thread runs what others stay awake for, or stays awake itself.
    static AWAKE: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, many parallel loops of some microseconds, while rayon's other threads stay awake in
/// between: left to themselves they fall asleep after a few, and each loop would pay for waking them.
pub(crate) fn awake<R>(f: impl FnOnce() -> R) -> R {
    if AWAKE.get() || rayon::current_num_threads() == 1 {
        return f();
    }
    rayon::spawn_broadcast(|_| linger());
    while_awake(f)
}

/// Looks for work until there has been none for a while. Never waits for anyone: a thread may well be
/// sent here in the middle of work that others wait for.
fn linger() {
    /// Longer than what lies between two loops, shorter than anyone would notice.
    const PATIENCE: Duration = Duration::from_micros(200);
    if AWAKE.get() {
        return;
    }
    while_awake(|| {
        let mut last = Instant::now();
        while last.elapsed() < PATIENCE {
            match rayon::yield_now() {
                Some(rayon::Yield::Executed) => last = Instant::now(),
                _ => thread::yield_now(),
            }
        }
    });
}

/// Runs `f` on a thread that is marked as awake, until then or until `f` panics.
fn while_awake<R>(f: impl FnOnce() -> R) -> R {
    struct Mark;
    impl Drop for Mark {
        fn drop(&mut self) {
            AWAKE.set(false);
        }
    }
    AWAKE.set(true);
    let _mark = Mark;
    f()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    fn sum() -> usize {
        (0..1000usize).into_par_iter().with_max_len(1).sum()
    }

    #[test]
    fn others_work_while_they_are_awake() {
        let both = || awake(|| (sum(), awake(sum)));
        let expected = (499_500, 499_500);
        assert_eq!(both(), expected, "from outside");
        assert_eq!(on_a_worker(both), expected);
        let many: Vec<_> = (0..50).into_par_iter().map(|_| both()).collect();
        assert!(many.iter().all(|&sums| sums == expected), "side by side");
        assert!(std::panic::catch_unwind(|| awake(|| panic!("inside"))).is_err());
        assert!(!AWAKE.get());
    }
}
