//! What a row measures, and what was measured.

use super::experts::{Experts, OfExperts};
use super::limits::Limits;
use super::shape::Shape;
use super::timing::Time;
use super::weights::Weights;
use serde::Serialize;
use std::num::NonZeroUsize;

/// What one row measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// The block.
    pub shape: Shape,
    /// The type of its weights and its input.
    pub weights: Weights,
    /// How many tokens go through it at once.
    pub tokens: NonZeroUsize,
    /// If it is a mixture of so many experts of the shape.
    pub experts: Option<Experts>,
}

impl Case {
    /// The size of its weights, each read once at least: of experts, those of the ones that are chosen.
    pub fn bytes(&self) -> f64 {
        let read = self.experts.map_or(1, |experts| experts.read(self.tokens.get()));
        (read * self.shape.weights()) as f64 * self.weights.bytes()
    }

    /// Its operations, a multiplication and an addition for every weight and token; those of the
    /// activation do not count.
    pub fn operations(&self) -> f64 {
        let blocks = self.experts.map_or(1, Experts::top); // that a token goes through
        2.0 * self.shape.weights() as f64 * blocks as f64 * self.tokens.get() as f64
    }

    /// Bytes of memory that measuring takes: the weights twice in f32, as a packed copy and while
    /// one type becomes the other, and what candle holds between its operations.
    pub(super) fn memory(&self) -> u64 {
        let (hidden, intermediate) = (self.shape.hidden() as u64, self.shape.intermediate() as u64);
        let (all, top) = self.experts.map_or((1, 1), |experts| (experts.count(), experts.top()));
        let between = (4 * intermediate).saturating_add(3 * hidden).saturating_mul(top as u64);
        let numbers = between
            .saturating_mul(self.tokens.get() as u64)
            .saturating_add(2 * (all * self.shape.weights()) as u64);
        numbers.saturating_mul(4)
    }
}

/// What was measured in one case.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Row {
    /// Width of input and output.
    pub hidden: usize,
    /// Width of gate and up.
    pub intermediate: usize,
    /// How many tokens went through the block at once.
    pub tokens: usize,
    /// The type of weights and input.
    pub weights: Weights,
    /// Our forward pass, packed: milliseconds, the median of the rounds. Before every round the
    /// caches are filled with other things: in a model the weights of a block come from memory.
    pub median_ms: f64,
    /// What all threads computed in it, in milliseconds of CPU time, a median: ours shares a block out
    /// among all of them.
    pub cpu_ms: f64,
    /// `median_ms` of candle: three linear layers and `gate.gelu() * up`, in turns with ours.
    pub candle_ms: f64,
    /// `cpu_ms` of candle.
    pub candle_cpu_ms: f64,
    /// What the limits allow: the longer of reading the weights once and of the three products at
    /// the peak of their type, in milliseconds.
    pub limit_ms: f64,
    /// `limit_ms / median_ms`: 1 is the limit reached.
    pub of_limit: f64,
    /// The three products' operations over `median_ms`, 10⁹ a second.
    pub gflops: f64,
    /// The weights' bytes over `median_ms`, 10⁹ a second.
    pub gbps: f64,
    /// `candle_ms / median_ms`: how many times as long candle takes.
    pub ratio_to_candle: f64,
    /// Of experts.
    #[serde(flatten)]
    pub of_experts: Option<OfExperts>,
}

impl Row {
    pub(super) fn new(case: Case, limits: &Limits, [our_time, candle_time]: [Time; 2]) -> Self {
        let (ours, candle) = (our_time.wall_ms, candle_time.wall_ms);
        let limit = limits.milliseconds(case.weights, case.bytes(), case.operations());
        Self {
            hidden: case.shape.hidden(),
            intermediate: case.shape.intermediate(),
            tokens: case.tokens.get(),
            weights: case.weights,
            median_ms: ours,
            cpu_ms: our_time.cpu_ms,
            candle_ms: candle,
            candle_cpu_ms: candle_time.cpu_ms,
            limit_ms: limit,
            of_limit: limit / ours,
            gflops: case.operations() / ours / 1e6,
            gbps: case.bytes() / ours / 1e6,
            ratio_to_candle: candle / ours,
            of_experts: case.experts.map(|experts| OfExperts {
                experts: experts.count(),
                top_k: experts.top(),
                experts_read: experts.read(case.tokens.get()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { fma_gflops: 200.0, bf16_gflops: 400.0, read_gbps: 40.0, threads: 2 };

    const TIMES: [Time; 2] =
        [Time { wall_ms: 25.0, cpu_ms: 45.0 }, Time { wall_ms: 50.0, cpu_ms: 55.0 }];

    fn case(weights: Weights, tokens: usize) -> Case {
        let shape = Shape::new(2048, 16384).unwrap();
        Case { shape, weights, tokens: NonZeroUsize::new(tokens).unwrap(), experts: None }
    }

    #[test]
    fn a_token_is_bound_by_reading_and_a_prompt_by_arithmetic() {
        let weights = 3.0 * 2048.0 * 16384.0;
        let limit = |weights, tokens| Row::new(case(weights, tokens), &LIMITS, TIMES).limit_ms;
        assert_eq!(limit(Weights::F32, 1), 4.0 * weights / 40e9 * 1e3);
        assert_eq!(limit(Weights::Bf16, 1), 2.0 * weights / 40e9 * 1e3);
        assert_eq!(limit(Weights::F32, 512), 2.0 * 512.0 * weights / 200e9 * 1e3);
        assert_eq!(limit(Weights::Bf16, 512), 2.0 * 512.0 * weights / 400e9 * 1e3);
    }

    /// Of experts, those count that some token goes through, and every token's.
    #[test]
    fn experts_are_bound_by_what_is_chosen() {
        let [all, top] = [128, 8].map(|n| NonZeroUsize::new(n).unwrap());
        let experts = Some(Experts::new(all, top).unwrap());
        let case = |tokens| Case { experts, ..case(Weights::Bf16, tokens) };
        let weights = 3.0 * 2048.0 * 16384.0;
        assert_eq!(case(1).bytes(), 8.0 * 2.0 * weights);
        assert_eq!(case(512).bytes(), 128.0 * 2.0 * weights);
        assert_eq!(case(512).operations(), 2.0 * 8.0 * 512.0 * weights);
        let row = Row::new(case(1), &LIMITS, TIMES);
        assert_eq!(
            row.of_experts.map(|of| (of.experts, of.top_k, of.experts_read)),
            Some((128, 8, 8))
        );
    }

    #[test]
    fn figures_follow_from_the_times() {
        let row = Row::new(case(Weights::F32, 1), &LIMITS, TIMES);
        let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 1e-12, "{a} {b}");
        near(row.of_limit, row.limit_ms / 25.0);
        near(row.ratio_to_candle, 2.0);
        assert_eq!((row.cpu_ms, row.candle_cpu_ms), (45.0, 55.0));
        near(row.gbps, 4.0 * 3.0 * 2048.0 * 16384.0 / 25e-3 / 1e9);
        near(row.gflops, 6.0 * 2048.0 * 16384.0 / 25e-3 / 1e9);
        near(row.of_limit, row.gbps / 40.0); // as reading is the limit
    }
}
