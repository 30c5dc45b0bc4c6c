use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread::{self, ThreadId};

/// Runs `f` in a pool of so many threads: that is what a call has then.
fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

const LONG: usize = WORTH_WAKING;

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

/// A helper takes a part as soon as one is wanted: both items meet.
#[test]
fn helpers_come() {
    let _alone = WANTS_A_HELPER.lock().unwrap_or_else(PoisonError::into_inner);
    let both = Barrier::new(2);
    with_threads(2, || for_each(LONG, 0..2, |_| drop(both.wait())));
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
    let _alone = WANTS_A_HELPER.lock().unwrap_or_else(PoisonError::into_inner);
    let (started, has_started) = mpsc::channel::<ThreadId>();
    let (free, is_free) = mpsc::channel::<()>();
    let (started, is_free) = (Mutex::new(started), Mutex::new(is_free));
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            with_threads(2, || {
                let caller = thread::current().id();
                let both = Barrier::new(2);
                for_each(LONG, 0..2, |_| {
                    both.wait();
                    // The helper's item lasts until the other caller is done.
                    if thread::current().id() != caller {
                        started.lock().unwrap().send(caller).unwrap();
                        is_free.lock().unwrap().recv().unwrap();
                    }
                });
            });
        });
        let waiting = has_started.recv().unwrap();
        for _ in 0..100 {
            let ran = with_threads(2, || map(LONG, 0..50, |_| thread::current().id()));
            assert!(!ran.contains(&waiting));
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
