//! Memory that is large, stays, and is read from end to end.

/// An empty vector with room for some elements, on large pages where the system gives them to who
/// asks (Linux, 2 MiB): every page takes a look into the system's tables, which on a virtual machine
/// costs as much as reading a good part of a small one.
pub(crate) fn on_large_pages<T>(len: usize) -> Vec<T> {
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
}
