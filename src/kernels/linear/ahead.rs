//! Asking for memory ahead of its use.

use std::ops::Range;

/// What to fetch on the way along a tile: the weight that is wanted next, and perhaps x.
pub struct Ahead {
    pub weight: Stream,
    pub x: Stream,
}

impl Ahead {
    /// Fetches what is due with every so many steps of some columns.
    #[inline(always)]
    pub fn fetch<const STEPS: usize, const WIDTH: usize>(&mut self) {
        if STEPS == 1 {
            // No step takes more lines than these.
            self.weight.fetch_lines(0..2);
            self.x.fetch_lines(0..WIDTH);
        } else {
            self.weight.fetch();
            self.x.fetch();
        }
        self.weight.go_on();
        self.x.go_on();
    }
}

/// A piece of memory, fetched bit by bit.
pub struct Stream {
    at: *const Line,
    /// How far it gets with every look at it.
    bytes: usize,
}

impl Stream {
    /// Nothing.
    pub const NONE: Self = Self { at: std::ptr::null(), bytes: 0 };

    /// Some bytes from a place on, of which every look takes an equal part.
    pub fn new<T>(at: *const T, bytes: usize, looks: usize) -> Self {
        Self { at: at.cast(), bytes: bytes.div_ceil(looks) }
    }

    /// Fetches up to 16 lines. A loop would take more instructions than it has requests.
    #[inline(always)]
    fn fetch(&self) {
        const LINE: usize = size_of::<Line>();
        if self.bytes > 0 {
            self.fetch_lines(0..1);
        }
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
pub type Line = [u8; 64];

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
