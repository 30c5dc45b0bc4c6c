//! The machine's memory: how much is free, and how fast it is read.

use gemma_mlp::internal::on_large_pages;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::hint::black_box;

/// What is taken for free where the system does not say.
const UNKNOWN: u64 = 16 << 30;

/// The largest buffer: beyond every cache.
const LARGEST: u64 = 1 << 30;

/// Read before a block is timed, so that no cache holds its weights.
const COLD: usize = 256 << 20;

/// Numbers that a thread reads at a time: 1 MiB of them.
const CHUNK: usize = 1 << 18;

/// Bytes that can be had without swapping.
pub(super) fn available() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    kibibytes(&meminfo, "MemAvailable:").map_or(UNKNOWN, |kib| kib.saturating_mul(1024))
}

fn kibibytes(meminfo: &str, field: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Memory that is larger than the caches.
pub(super) struct Buffer(Vec<f32>);

impl Buffer {
    /// An eighth of what is free, from 1 MiB to 1 GiB.
    pub fn new(available: u64) -> Self {
        let bytes = (available / 8).clamp(1 << 20, LARGEST) as usize;
        // Written by all threads, so that on machines of several nodes each holds a part; zeros
        // would be one page of the system's, mapped everywhere.
        let len = bytes / size_of::<f32>();
        let mut numbers = on_large_pages(len);
        (0..len).into_par_iter().map(|_| 1.0).collect_into_vec(&mut numbers);
        Self(numbers)
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        size_of_val(self.0.as_slice())
    }

    /// Reads it all, with all threads.
    pub fn read(&self) {
        read(&self.0);
    }

    /// Reads as much as no cache holds.
    pub fn cool(&self) {
        read(&self.0[..self.0.len().min(COLD / size_of::<f32>())]);
    }
}

fn read(numbers: &[f32]) {
    // The sum is used, or else the compiler would leave the reading out.
    let sum = |chunk| Arch::new().dispatch(Sum(chunk));
    black_box(numbers.par_chunks(CHUNK).map(sum).sum::<f32>());
}

/// The sum of a slice, in vectors.
struct Sum<'a>(&'a [f32]);

impl WithSimd for Sum<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let (vectors, rest) = S::as_simd_f32s(self.0);
        let (eights, tail) = vectors.as_chunks::<8>();
        // Eight sums hide the latency of the additions: memory alone is to set the pace.
        let mut sums = [simd.splat_f32s(0.0); 8];
        for eight in eights {
            for (sum, &x) in sums.iter_mut().zip(eight) {
                *sum = simd.add_f32s(*sum, x);
            }
        }
        let all = sums.iter().chain(tail).fold(simd.splat_f32s(0.0), |a, &b| simd.add_f32s(a, b));
        simd.reduce_sum_f32s(all) + rest.iter().sum::<f32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_whole() {
        for length in [0, 1, 15, 16, 127, 128, 129, 1000] {
            let numbers: Vec<f32> = (0..length).map(|i| i as f32).collect();
            assert_eq!(Arch::new().dispatch(Sum(&numbers)), numbers.iter().sum::<f32>());
        }
    }

    #[test]
    fn sizes() {
        let meminfo = "MemTotal:       24000000 kB\nMemAvailable:   23000000 kB\n";
        assert_eq!(kibibytes(meminfo, "MemAvailable:"), Some(23_000_000));
        assert_eq!(kibibytes("MemTotal: many kB", "MemTotal:"), None);
        assert!(available() > 0);
        let buffer = Buffer::new(8 << 20);
        assert_eq!(buffer.bytes(), 1 << 20);
        buffer.read();
        buffer.cool();
    }
}
