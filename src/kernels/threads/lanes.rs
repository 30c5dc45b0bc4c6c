//! A loop's items in lanes, one for each thread that may come: neighbours are taken by one thread, in
//! their order, so that what it fetches ahead is what it reads next.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::vec::IntoIter;

pub(super) struct Lanes<T> {
    lanes: Vec<Mutex<IntoIter<T>>>,
    /// The first lane that is nobody's yet.
    free: AtomicUsize,
}

impl<T> Lanes<T> {
    /// Shares items out into lanes, evenly.
    pub fn new(items: impl Iterator<Item = T>, lanes: usize) -> Self {
        let mut rest: Vec<T> = items.collect();
        let lane = |left: usize| {
            let tail = rest.split_off(rest.len() / left * (left - 1));
            Mutex::new(tail.into_iter())
        };
        let mut lanes: Vec<_> = (1..=lanes.max(1)).rev().map(lane).collect();
        lanes.reverse();
        Self { lanes, free: AtomicUsize::new(0) }
    }

    /// The next item for a thread that has taken items of `own` so far: the next of its lane, else the
    /// first of a lane that is nobody's, else the last of the fullest.
    pub fn take(&self, own: &mut Option<usize>) -> Option<T> {
        loop {
            if let Some(item) = own.and_then(|own| lock(self.lanes.get(own)?).next()) {
                return Some(item);
            }
            if self.free.load(Ordering::Relaxed) >= self.lanes.len() {
                break;
            }
            *own = Some(self.free.fetch_add(1, Ordering::Relaxed));
        }
        let fullest = self.lanes.iter().max_by_key(|lane| lock(lane).len())?;
        // Somebody may have been faster; then others have items, or none has.
        let item = lock(fullest).next_back();
        item.or_else(|| self.lanes.iter().find_map(|lane| lock(lane).next_back()))
    }
}

/// Nothing that can panic happens under the lock.
fn lock<T>(lane: &Mutex<IntoIter<T>>) -> MutexGuard<'_, IntoIter<T>> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_takes_neighbours_and_then_what_is_left() {
        let lanes = Lanes::new(0..7, 2);
        let (mut one, mut other) = (None, None);
        let first: Vec<_> = (0..2).filter_map(|_| lanes.take(&mut one)).collect();
        assert_eq!(first, [0, 1]);
        assert_eq!(lanes.take(&mut other), Some(3));
        let rest: Vec<_> = std::iter::from_fn(|| lanes.take(&mut one)).collect();
        assert_eq!(rest, [2, 6, 5, 4]);
        assert_eq!(lanes.take(&mut other), None);
    }

    #[test]
    fn one_thread_takes_all_in_their_order() {
        for (items, lanes) in [(0, 1), (1, 4), (5, 8), (100, 7), (64, 2)] {
            let lanes = Lanes::new(0..items, lanes);
            let mut own = None;
            let taken = std::iter::from_fn(|| lanes.take(&mut own));
            assert!(taken.eq(0..items), "{items}");
        }
    }
}
