use super::*;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex, PoisonError, mpsc};
use std::thread;

/// Runs `f` in a pool of so many threads: that is what a call has then.
fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

const LONG: usize = WORTH_WAKING + SHORT;

/// Held by tests that wait for a helper: two of them would wait for each other's.
static WANTS_A_HELPER: Mutex<()> = Mutex::new(());

#[test]
fn every_item_is_taken_once() {
    for threads in [1, 2, 3, 7] {
        for items in [0, 1, 2, 5, 1000] {
            for nanoseconds in [0, LONG] {
                with_threads(threads, || {
                    let mut taken = vec![0; items];
                    awake(|| {
                        for_each(nanoseconds, taken.iter_mut(), |taken| *taken += 1);
                        operation(|| for_each(nanoseconds, taken.iter_mut(), |taken| *taken += 1));
                    });
                    assert!(taken.iter().all(|&taken| taken == 2), "{threads} {items}");
                    let squares = map(nanoseconds, 0..items, |i| i * i);
                    assert!(squares.into_iter().eq((0..items).map(|i| i * i)));
                });
            }
        }
    }
}

thread_local! {
    /// Whether a thread is the caller in [`with_helper`].
    static CALLS: Cell<bool> = const { Cell::new(false) };
}

/// Runs a loop that lasts until a helper comes in, and then what the helper is to do.
fn with_helper(then: impl Fn() + Sync) {
    let _alone = WANTS_A_HELPER.lock().unwrap_or_else(PoisonError::into_inner);
    with_threads(2, || {
        CALLS.set(true);
        let come = AtomicBool::new(false);
        // A lane for each: the helper gets at least one item, unless it takes minutes to come.
        for_each(LONG, 0..200_000, |_| match CALLS.get() {
            true if !come.load(Ordering::Relaxed) => thread::sleep(Duration::from_millis(1)),
            false if !come.swap(true, Ordering::Relaxed) => then(),
            _ => {}
        });
        assert!(come.into_inner());
    });
}

#[test]
fn helpers_come() {
    let ran = AtomicUsize::new(0);
    with_helper(|| {
        ran.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(ran.into_inner(), 1);
}

#[test]
fn loops_inside_loops_stay_on_their_thread() {
    with_threads(3, || {
        for_each(LONG, 0..20, |_| {
            let here = thread::current().id();
            for_each(LONG, 0..20, |_| assert_eq!(thread::current().id(), here));
            awake(|| for_each(LONG, 0..2, |_| assert_eq!(thread::current().id(), here)));
        });
    });
}

/// A caller whose loop is held up by a helper waits for that piece, and runs nothing else meanwhile:
/// another caller's loop ends, without the first one's thread.
#[test]
fn a_waiting_caller_runs_nobody_elses_work() {
    let (started, has_started) = mpsc::channel::<()>();
    let (free, is_free) = mpsc::channel::<()>();
    let (started, is_free) = (Mutex::new(started), Mutex::new(is_free));
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            // The helper's item lasts until the other caller is done.
            with_helper(|| {
                started.lock().unwrap().send(()).unwrap();
                is_free.lock().unwrap().recv().unwrap();
            });
        });
        has_started.recv().unwrap();
        for _ in 0..100 {
            with_threads(2, || for_each(LONG, 0..50, |_| assert!(!CALLS.get())));
        }
        assert!(!first.is_finished());
        free.send(()).unwrap();
    });
}

/// Under load, too: whatever a caller's thread runs is its own.
#[test]
fn callers_run_their_own_work_only() {
    thread_local!(static OWN: Cell<Option<usize>> = const { Cell::new(None) });
    thread::scope(|scope| {
        for caller in 0..8 {
            scope.spawn(move || {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(3).use_current_thread();
                let _pool = pool.build().unwrap();
                OWN.set(Some(caller));
                let total = AtomicUsize::new(0);
                for round in 0..200 {
                    awake(|| {
                        for_each(LONG * (round % 2), 0..16, |i| {
                            // Helpers are nobody's.
                            assert!(OWN.get().is_none_or(|own| own == caller));
                            total.fetch_add(i, Ordering::Relaxed);
                        });
                    });
                }
                assert_eq!(total.into_inner(), 200 * 120);
            });
        }
    });
}

/// A panic reaches the caller, from whichever thread; the next call works.
#[test]
fn panics_are_handed_on() {
    for threads in [1, 2, 3] {
        with_threads(threads, || {
            for culprit in [0, 1, 99] {
                let run = || for_each(LONG, 0..100, |i| assert_ne!(i, culprit, "on purpose"));
                assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
                assert_eq!(map(LONG, 0..100, |i| i).len(), 100);
            }
            assert!(catch_unwind(AssertUnwindSafe(|| awake(|| panic!("on purpose")))).is_err());
            assert!(PLACE.with(|place| place.role.get()) == Role::Outside);
        });
    }
}

/// As many callers as there are threads have no helpers.
#[test]
fn callers_and_helpers_are_no_more_than_the_threads() {
    let all = Barrier::new(2);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                with_threads(2, || {
                    awake(|| {
                        all.wait(); // both are in a call
                        let here = thread::current().id();
                        for _ in 0..100 {
                            let ran = map(LONG, 0..20, |_| thread::current().id());
                            assert!(ran.iter().all(|&id| id == here));
                        }
                        all.wait();
                    });
                });
            });
        }
    });
}
