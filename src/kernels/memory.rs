//! Memory: large vectors that stay, and scratch that is used again.

use memmap2::MmapMut;
use pulp::bytemuck::{self, Pod};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::LocalKey;

/// An empty vector with room for `len` elements, on huge pages where the system grants them (2 MiB, by
/// Linux's `madvise`): the first access to a page misses the TLB, and to walk the page tables takes a
/// virtual machine as long as to read a good part of a page of 4 KiB.
pub fn on_large_pages<T>(len: usize) -> Vec<T> {
    let mut memory = Vec::with_capacity(len);
    #[cfg(all(target_os = "linux", not(miri)))]
    ask_for_large_pages(memory.spare_capacity_mut());
    memory
}

/// Asks for large pages wherever whole ones fit. The answer is not needed.
#[cfg(all(target_os = "linux", not(miri)))]
fn ask_for_large_pages<T>(memory: &mut [std::mem::MaybeUninit<T>]) {
    const PAGE: usize = 2 << 20;
    let before = memory.as_ptr().cast::<u8>().align_offset(PAGE);
    let len = size_of_val(memory).saturating_sub(before) / PAGE * PAGE;
    if len > 0 {
        let start = memory.as_mut_ptr().wrapping_byte_add(before);
        // SAFETY: the range lies inside memory that is borrowed mutably, and this advice changes
        // nothing that a program can see of it.
        unsafe { libc::madvise(start.cast(), len, libc::MADV_HUGEPAGE) };
    }
}

/// Bytes of scratch that all threads together keep from one call to the next: what a prompt of some
/// hundred tokens takes in a small model. Larger scratch is given back after each call.
const MOST_KEPT: usize = 12 << 20;

/// How many are kept now.
static KEPT_NOW: AtomicUsize = AtomicUsize::new(0);

/// Where a thread keeps scratch: a static that [`kept`] makes.
pub type Kept = Cell<Scratch>;

/// Memory for numbers of any type, and what was left in it.
#[derive(Default)]
pub struct Scratch {
    memory: Memory,
    /// Whether it counts as kept.
    kept: bool,
}

enum Memory {
    /// Aligned for every number.
    Small(Vec<u64>),
    /// Pages of the system's own, which go back to it at once: an allocator would keep them.
    Large(MmapMut),
}

impl Default for Memory {
    fn default() -> Self {
        Self::Small(vec![])
    }
}

impl Memory {
    /// Bytes from which on pages are asked for.
    const LARGE: usize = 1 << 18;

    fn new(bytes: usize) -> Self {
        if bytes >= Self::LARGE && cfg!(not(miri)) {
            // Large pages are asked for in whole.
            let whole = bytes.next_multiple_of(1 << 12);
            if let Ok(pages) = MmapMut::map_anon(whole) {
                #[cfg(target_os = "linux")]
                let _ = pages.advise(memmap2::Advice::HugePage); // the answer is not needed
                return Self::Large(pages);
            }
        }
        Self::Small(vec![0; bytes.div_ceil(size_of::<u64>())])
    }

    fn bytes(&mut self) -> &mut [u8] {
        match self {
            Self::Small(words) => bytemuck::cast_slice_mut(words),
            Self::Large(pages) => pages,
        }
    }
}

impl Scratch {
    /// Takes it out of what is kept.
    fn take(place: &'static LocalKey<Kept>) -> Self {
        let mut scratch = place.take();
        scratch.forget();
        scratch
    }

    /// Keeps it, if what is kept stays within [`MOST_KEPT`].
    fn keep(mut self, place: &'static LocalKey<Kept>) {
        let bytes = self.memory.bytes().len();
        let within = |now: usize| Some(now + bytes).filter(|&all| all <= MOST_KEPT);
        self.kept = KEPT_NOW.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok();
        if self.kept {
            place.set(self);
        }
    }

    fn forget(&mut self) {
        if std::mem::take(&mut self.kept) {
            KEPT_NOW.fetch_sub(self.memory.bytes().len(), Ordering::Relaxed);
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Calls `f` with `len` elements of scratch: what this thread keeps at a place, with what was left in
/// it, or new memory. It is taken out meanwhile, so that a call inside `f` has its own.
pub fn with_scratch<T: Pod, R>(
    place: &'static LocalKey<Kept>,
    len: usize,
    f: impl FnOnce(&mut [T]) -> R,
) -> R {
    let bytes = len.saturating_mul(size_of::<T>());
    let mut scratch = Scratch::take(place);
    if scratch.memory.bytes().len() < bytes {
        scratch.memory = Memory::default(); // before there is more
        scratch.memory = Memory::new(bytes);
    }
    let result = f(bytemuck::cast_slice_mut(&mut scratch.memory.bytes()[..bytes]));
    scratch.keep(place);
    result
}

/// Makes statics of some names, in each of which every thread keeps scratch.
macro_rules! kept {
    ($($name:ident),*) => {
        thread_local! {
            $(static $name: $crate::kernels::memory::Kept = std::cell::Cell::default();)*
        }
    };
}
pub(crate) use kept;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_is_put_into_it() {
        for len in [0, 1, 1000, (2 << 20) / 8 - 1, (9 << 20) / 8] {
            let mut memory = on_large_pages(len);
            let capacity = memory.capacity();
            memory.extend(0..len as u64);
            assert_eq!(memory.capacity(), capacity);
            assert!(memory.iter().copied().eq(0..len as u64), "{len}");
        }
    }

    #[test]
    fn scratch_is_used_again_and_large_scratch_given_back() {
        kept!(PLACE);
        let bytes = || {
            let mut scratch = PLACE.take();
            let len = scratch.memory.bytes().len();
            PLACE.set(scratch);
            len
        };
        with_scratch(&PLACE, 100, |numbers: &mut [f32]| {
            numbers.fill(3.0);
            with_scratch(&PLACE, 100, |others: &mut [f32]| others.fill(4.0));
            assert!(numbers.iter().all(|&x| x == 3.0));
        });
        assert!(bytes() >= 400);
        with_scratch(&PLACE, 50, |numbers: &mut [f32]| assert_eq!(numbers.len(), 50));
        assert_eq!(bytes(), 400);
        with_scratch(&PLACE, MOST_KEPT / 4 + 1, |numbers: &mut [f32]| numbers.fill(1.0));
        assert_eq!(bytes(), 0, "more than is kept");
        assert!(KEPT_NOW.load(Ordering::Relaxed) <= MOST_KEPT);
    }
}
