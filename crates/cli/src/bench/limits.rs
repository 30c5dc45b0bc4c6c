//! What this machine can do at most.

#[cfg(target_arch = "x86_64")]
use super::dot_bf16::DotBf16;
use super::memory::{Buffer, available};
use super::weights::Weights;
use pulp::{Arch, Simd, WithSimd};
use serde::Serialize;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// How long one measurement of the arithmetic takes.
const BURST: Duration = Duration::from_millis(20);

/// Steps of every chain between two looks at the clock.
const STEPS: usize = 10_000;

/// What this machine can do at most with rayon's threads, measured: medians over samples that are
/// taken in turns with whatever is compared with them, since what a machine gives changes while it
/// runs, and more so if it is shared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Limits {
    /// Fused multiply-adds of f32 in registers, each two operations: 10⁹ operations a second.
    pub fma_gflops: f64,
    /// Products of bf16 with bf16, summed in f32: 10⁹ operations a second. The peak of the
    /// instruction for them where the machine has AVX512-BF16, otherwise that of f32, to which such
    /// machines widen.
    pub bf16_gflops: f64,
    /// Reading memory from end to end: 10⁹ bytes a second.
    pub read_gbps: f64,
    /// How many threads took part.
    pub threads: usize,
}

impl Limits {
    /// The peak of products of a type: 10⁹ operations a second.
    pub fn gflops(&self, weights: Weights) -> f64 {
        match weights {
            Weights::Bf16 => self.bf16_gflops,
            _ => self.fma_gflops,
        }
    }

    /// Milliseconds below which nothing reads so many bytes and does so many operations on a type:
    /// reading and arithmetic overlap at best, so that the slower of them counts.
    pub fn milliseconds(&self, weights: Weights, bytes: f64, operations: f64) -> f64 {
        (bytes / self.read_gbps).max(operations / self.gflops(weights)) / 1e6
    }
}

/// Takes samples of the limits.
pub struct Sampler {
    buffer: Buffer,
    samples: Vec<Limits>,
}

impl Default for Sampler {
    /// Takes memory for the time being: an eighth of what is free, up to 1 GiB.
    fn default() -> Self {
        Self::new(Buffer::new(available()))
    }
}

impl Sampler {
    pub(super) fn new(buffer: Buffer) -> Self {
        Self { buffer, samples: vec![] }
    }

    /// Takes one: some 50 ms.
    pub fn sample(&mut self) {
        let fma_gflops = burst(|| Arch::new().dispatch(Chains));
        self.samples.push(Limits {
            fma_gflops,
            bf16_gflops: dot_bf16().unwrap_or(fma_gflops),
            read_gbps: pass(&self.buffer),
            threads: rayon::current_num_threads(),
        });
    }

    /// Fills the caches with other things.
    pub(super) fn cool(&self) {
        self.buffer.cool();
    }

    /// The medians so far; NaN if there is none.
    pub fn limits(&self) -> Limits {
        let median = |of: fn(&Limits) -> f64| {
            let mut values: Vec<f64> = self.samples.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
        };
        Limits {
            fma_gflops: median(|limits| limits.fma_gflops),
            bf16_gflops: median(|limits| limits.bf16_gflops),
            read_gbps: median(|limits| limits.read_gbps),
            threads: rayon::current_num_threads(),
        }
    }
}

/// The peak of the instruction for products of bf16, where the machine has one.
fn dot_bf16() -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if let Some(dots) = DotBf16::new() {
        return Some(burst(|| dots.chains(STEPS)));
    }
    None
}

/// 10⁹ operations a second of chains that count theirs, by all threads at once.
fn burst(chains: impl Fn() -> usize + Sync) -> f64 {
    let start = Instant::now();
    let operations = rayon::broadcast(|_| {
        let mut operations = 0;
        while start.elapsed() < BURST {
            operations += chains();
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
        let limits = Limits { fma_gflops: 200.0, bf16_gflops: 400.0, read_gbps: 40.0, threads: 2 };
        // 400 MB at 40 GB/s are 10 ms, 1 GFLOP at 200 GFLOP/s are 5 ms.
        assert_eq!(limits.milliseconds(Weights::F32, 4e8, 1e9), 10.0);
        assert_eq!(limits.milliseconds(Weights::F32, 4e8, 4e9), 20.0);
        assert_eq!(limits.milliseconds(Weights::Bf16, 4e8, 8e9), 20.0);
    }

    #[test]
    fn limits_are_measured() {
        let mut sampler = Sampler::new(Buffer::new(1 << 26));
        assert!(sampler.limits().read_gbps.is_nan());
        (0..3).for_each(|_| sampler.sample());
        let limits = sampler.limits();
        for rate in [limits.fma_gflops, limits.bf16_gflops, limits.read_gbps] {
            assert!(rate > 0.0 && rate.is_finite(), "{limits:?}");
        }
        let widened = limits.bf16_gflops == limits.fma_gflops;
        assert_eq!(widened, dot_bf16().is_none(), "{limits:?}");
        assert_eq!(limits.threads, rayon::current_num_threads());
    }
}
