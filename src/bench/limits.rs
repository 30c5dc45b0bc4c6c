//! What this machine can do at most.

use super::memory::Buffer;
use pulp::{Arch, Simd, WithSimd};
use serde::Serialize;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// How long one measurement of the arithmetic takes, and how many there are.
const BURST: Duration = Duration::from_millis(50);
const BURSTS: usize = 5;

/// How often the buffer is read.
const PASSES: usize = 7;

/// Steps of every chain between two looks at the clock.
const STEPS: usize = 10_000;

/// What this machine can do at most with rayon's threads, measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limits {
    /// Fused multiply-adds of f32 in registers, each two operations: 10⁹ operations a second.
    pub fma_gflops: f64,
    /// Reading memory from end to end: 10⁹ bytes a second.
    pub read_gbps: f64,
    /// How many threads took part.
    pub threads: usize,
}

impl Limits {
    /// Measures them, each as the best of several goes: what disturbs can only slow down.
    pub(super) fn measure(buffer: &Buffer) -> Self {
        let best = |rates: &mut dyn Iterator<Item = f64>| rates.fold(0.0, f64::max);
        Self {
            fma_gflops: best(&mut (0..BURSTS).map(|_| burst())),
            read_gbps: best(&mut (0..PASSES).map(|_| pass(buffer))),
            threads: rayon::current_num_threads(),
        }
    }

    /// The better of two measurements.
    pub(super) fn best(self, other: Self) -> Self {
        Self {
            fma_gflops: self.fma_gflops.max(other.fma_gflops),
            read_gbps: self.read_gbps.max(other.read_gbps),
            threads: self.threads,
        }
    }

    /// Milliseconds below which nothing reads so many bytes and does so many operations: reading
    /// and arithmetic overlap at best, so that the slower of them counts.
    pub fn milliseconds(&self, bytes: f64, operations: f64) -> f64 {
        (bytes / self.read_gbps).max(operations / self.fma_gflops) / 1e6
    }
}

/// 10⁹ operations a second, by all threads at once.
fn burst() -> f64 {
    let start = Instant::now();
    let operations = rayon::broadcast(|_| {
        let mut operations = 0;
        while start.elapsed() < BURST {
            operations += Arch::new().dispatch(Chains);
        }
        operations
    });
    operations.iter().sum::<usize>() as f64 / start.elapsed().as_nanos() as f64
}

/// 10⁹ bytes a second.
fn pass(buffer: &Buffer) -> f64 {
    let start = Instant::now();
    buffer.read();
    buffer.bytes() as f64 / start.elapsed().as_nanos() as f64
}

/// Independent chains of fused multiply-adds; counts their operations.
struct Chains;

impl WithSimd for Chains {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> usize {
        // As many as hide the latency of the widest cores and leave registers for the factors.
        if S::REGISTER_COUNT >= 32 { chains::<S, 24>(simd) } else { chains::<S, 12>(simd) }
    }
}

#[inline(always)]
fn chains<S: Simd, const N: usize>(simd: S) -> usize {
    // What the compiler does not know it cannot compute ahead, and chains that start apart it
    // cannot merge. They tend to 1: nothing overflows or becomes subnormal.
    let (factor, summand) = (simd.splat_f32s(black_box(0.75)), simd.splat_f32s(black_box(0.25)));
    let mut sums: [_; N] = std::array::from_fn(|i| simd.splat_f32s(i as f32));
    for _ in 0..STEPS {
        for sum in &mut sums {
            *sum = simd.mul_add_e_f32s(*sum, factor, summand);
        }
    }
    let all = sums.into_iter().fold(summand, |a, b| simd.add_f32s(a, b));
    black_box(simd.reduce_sum_f32s(all));
    2 * S::F32_LANES * N * STEPS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_of_reading_and_arithmetic_counts() {
        let limits = Limits { fma_gflops: 200.0, read_gbps: 40.0, threads: 2 };
        // 400 MB at 40 GB/s are 10 ms, 1 GFLOP at 200 GFLOP/s are 5 ms.
        assert_eq!(limits.milliseconds(4e8, 1e9), 10.0);
        assert_eq!(limits.milliseconds(4e8, 4e9), 20.0);
    }

    #[test]
    fn limits_are_measured() {
        let limits = Limits::measure(&Buffer::new(1 << 26));
        assert!(limits.fma_gflops > 0.0 && limits.fma_gflops.is_finite(), "{limits:?}");
        assert!(limits.read_gbps > 0.0 && limits.read_gbps.is_finite(), "{limits:?}");
        assert_eq!(limits.threads, rayon::current_num_threads());
    }
}
