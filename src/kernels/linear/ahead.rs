//! Asking for memory ahead of its use.

use std::ops::Range;

/// What to fetch on the way along a tile: the weight that is wanted next, and perhaps x.
pub struct Ahead {
    weight: Stream,
    x: Stream,
    /// Whether there is more to do at every look than to ask for a line of the weight.
    more: bool,
}

impl Ahead {
    /// The weight, and x if it is in no cache yet.
    pub fn new(weight: Stream, x: Option<Stream>) -> Self {
        let more = weight.bytes > LINE || x.is_some();
        Self { weight, x: x.unwrap_or(Stream { at: std::ptr::null(), bytes: 0 }), more }
    }

    /// Fetches what is due with every so many steps of some columns.
    #[inline(always)]
    pub fn fetch<const STEPS: usize, const WIDTH: usize>(&mut self) {
        if STEPS == 1 {
            // No step takes more lines than these.
            self.weight.fetch_lines(0..2);
            self.x.fetch_lines(0..WIDTH);
            self.x.go_on();
        } else {
            // Most looks ask for this and no more: with two threads on a core every instruction counts.
            self.weight.fetch_lines(0..1);
            if self.more {
                self.weight.fetch_behind_first();
                if self.x.bytes > 0 {
                    self.x.fetch_lines(0..1);
                    self.x.fetch_behind_first();
                    self.x.go_on();
                }
            }
        }
        self.weight.go_on();
    }
}

/// A piece of memory, fetched bit by bit.
pub struct Stream {
    at: *const Line,
    /// How far it gets with every look at it.
    bytes: usize,
}

impl Stream {
    /// From a place on, so many bytes with every look.
    pub fn new<T>(at: *const T, bytes: usize) -> Self {
        Self { at: at.cast(), bytes }
    }

    /// Fetches up to 15 lines. A loop would take more instructions than it has requests.
    #[inline(always)]
    fn fetch_behind_first(&self) {
        if self.bytes > LINE {
            self.fetch_lines(1..2);
            if self.bytes > 2 * LINE {
                self.fetch_lines(2..4);
                if self.bytes > 4 * LINE {
                    self.fetch_lines(4..8);
                    if self.bytes > 8 * LINE {
                        self.fetch_lines(8..16);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn fetch_lines(&self, lines: Range<usize>) {
        lines.for_each(|line| prefetch(self.at.wrapping_add(line)));
    }

    #[inline(always)]
    fn go_on(&mut self) {
        self.at = self.at.wrapping_byte_add(self.bytes);
    }
}

/// A cache line.
pub type Line = [u8; LINE];

/// Its bytes.
const LINE: usize = 64;

/// Asks for memory that will be read soon. Any address will do: one that is not ours is ignored.
#[inline(always)]
pub fn prefetch<T>(at: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    for line in 0..size_of::<T>().div_ceil(64) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program can see and faults at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast::<i8>().wrapping_add(64 * line)) }
    }
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    let _ = at;
}
