//! The protocol by which helpers take a part in a caller's loops, in every order of events that the
//! memory model allows: loom runs it again and again.

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;

/// What src/kernels/threads/sync.rs has of the standard library.
mod sync {
    pub use loom::cell::UnsafeCell;
    pub use loom::sync::Mutex;
    pub use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub use loom::thread::{Thread, current, park};
    pub use std::sync::PoisonError;

    /// Not at all, so that the caller goes to sleep if it can.
    pub fn wait_briefly(come_true: impl Fn() -> bool) -> bool {
        come_true()
    }
}

#[path = "../src/kernels/threads/call.rs"]
#[allow(dead_code)]
mod call;

use call::Call;

/// Read by items and written behind the loop: loom complains if the two could meet.
struct Watched(UnsafeCell<usize>);

// SAFETY: it is here to find out whether that holds.
unsafe impl Sync for Watched {}

impl Watched {
    fn read(&self) -> usize {
        // SAFETY: loom checks it.
        self.0.with(|at| unsafe { *at })
    }

    fn write(&self, value: usize) {
        // SAFETY: loom checks it.
        self.0.with_mut(|at| unsafe { *at = value });
    }
}

/// A loop of some items on a call: every item is run once, and nobody is in it when it has ended.
fn run(call: &Call, items: usize) {
    let here = Watched(UnsafeCell::new(0));
    let (left, ran) = (Mutex::new(items), Mutex::new(0));
    let work = |go_on: &dyn Fn() -> bool| {
        while go_on() {
            let mut left = left.lock().unwrap();
            if *left == 0 {
                return true;
            }
            *left -= 1;
            drop(left);
            assert_eq!(here.read(), 0);
            *ran.lock().unwrap() += 1;
        }
        false
    };
    call.run(&work, || {});
    here.write(1);
    assert_eq!(*ran.lock().unwrap(), items);
}

fn model(helpers: usize, loops: usize, items: usize, tries: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let call = Arc::new(Call::new());
        let help = |call: Arc<Call>| {
            move || {
                for _ in 0..tries {
                    call.help(&|| true);
                }
            }
        };
        let helpers: Vec<_> = (0..helpers).map(|_| thread::spawn(help(call.clone()))).collect();
        for _ in 0..loops {
            run(&call, items);
        }
        helpers.into_iter().for_each(|helper| helper.join().expect("no panic"));
    });
}

#[test]
fn one_helper_and_two_loops() {
    model(1, 2, 2, 2);
}

#[test]
fn two_helpers_and_one_loop() {
    model(2, 1, 2, 1);
}
