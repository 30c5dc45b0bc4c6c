//! Elements of any size that lie one behind the other in a file.

use super::file::{File, PIECE};
use crate::error::Result;
use crate::kernels::memory::on_large_pages;
use rayon::prelude::*;

/// The elements that lie in so many bytes from a place on, each made of its `N` bytes by a function: read
/// and converted by all threads, straight into their place.
pub(super) fn elements<const N: usize, T: Copy + Send>(
    file: &File,
    at: u64,
    bytes: usize,
    element: impl Fn([u8; N]) -> T + Sync + Send,
) -> Result<Vec<T>> {
    let len = bytes / N;
    let mut all = on_large_pages(len);
    let places = all.spare_capacity_mut()[..len].par_chunks_mut(PIECE / N);
    file.read(at, bytes, PIECE, places, |bytes, places| {
        let (elements, _) = bytes.as_chunks::<N>();
        assert_eq!(elements.len(), places.len(), "a piece for its places");
        for (place, &bytes) in places.iter_mut().zip(elements) {
            place.write(element(bytes));
        }
        Ok(())
    })?;
    // SAFETY: there is room for them, and nothing failed: each place was written.
    unsafe { all.set_len(len) };
    Ok(all)
}
