//! How fast one block is on this machine: ours, candle's own operations on the same weights, and
//! what memory and arithmetic allow at best.

mod block;
mod case;
#[cfg(target_arch = "x86_64")]
mod dot_bf16;
mod experts;
mod limits;
mod memory;
mod mixture;
mod noise;
mod shape;
mod timing;
mod weights;

pub use limits::{Limits, Sampler};
pub use weights::Weights;

pub(crate) use case::{Case, Row};
pub(crate) use experts::Experts;
pub(crate) use shape::Shape;

use gemma_mlp::{Error, Result};
use memory::Buffer;
use serde::Serialize;
use std::num::NonZeroUsize;

/// What to measure of every shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BenchOptions {
    /// How many tokens go through the block at once, each in a row of its own.
    pub tokens: Vec<NonZeroUsize>,
    /// The types of weights and input.
    pub weights: Vec<Weights>,
    /// Mixtures of so many experts, each of the shape, in place of single blocks.
    pub experts: Option<Experts>,
}

impl Default for BenchOptions {
    /// From one token, which reading the weights limits, to a prompt, which arithmetic limits.
    fn default() -> Self {
        let tokens = [1, 4, 16, 64, 512].into_iter().filter_map(NonZeroUsize::new).collect();
        Self { tokens, weights: Weights::FLOATS.to_vec(), experts: None }
    }
}

/// The result of a benchmark: plain data, of which table and JSON are views.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Bench {
    /// What this machine can do at most.
    pub limits: Limits,
    /// One for each shape, type of weights and number of tokens, in this order.
    pub rows: Vec<Row>,
}

/// Measures the block in every shape, and in turns with it this machine's limits; a shape listed
/// twice is measured once. `progress` gets the rows done and their total.
///
/// Blocks run on the CPU, under tanh, without biases, on weights of Gaussian noise that are the same
/// on every run.
///
/// # Errors
/// Blocks that do not fit the memory, before anything is measured; candle's while computing.
pub(crate) fn run(
    shapes: &[Shape],
    options: &BenchOptions,
    mut progress: impl FnMut(usize, usize),
) -> Result<Bench> {
    for &shape in shapes {
        options.experts.map_or(Ok(()), |experts| experts.check(shape))?;
    }
    let cases = cases(shapes, options);
    let buffer = Buffer::new(memory::available());
    let free = memory::available(); // beside the buffer
    for case in &cases {
        check(case, free)?;
    }
    let mut sampler = Sampler::new(buffer);
    let mut times = Vec::with_capacity(cases.len());
    for same_weights in cases.chunk_by(|a, b| (a.shape, a.weights) == (b.shape, b.weights)) {
        let sides = Sides::new(same_weights[0])?;
        for &case in same_weights {
            sampler.sample();
            times.push(sides.times(case, || sampler.cool())?);
            progress(times.len(), cases.len());
        }
    }
    let limits = sampler.limits();
    let rows = cases.iter().zip(times).map(|(&case, times)| Row::new(case, &limits, times));
    Ok(Bench { limits, rows: rows.collect() })
}

/// What is measured in some cases.
enum Sides {
    Block(Box<block::Sides>),
    Experts(mixture::Sides),
}

impl Sides {
    /// Of a case's shape, type and experts.
    fn new(case: Case) -> Result<Self> {
        Ok(match case.experts {
            None => Self::Block(Box::new(block::Sides::new(case.shape, case.weights)?)),
            Some(experts) => Self::Experts(mixture::Sides::new(case, experts)?),
        })
    }

    /// Ours, and candle's.
    fn times(&self, case: Case, cool: impl Fn()) -> Result<[timing::Time; 2]> {
        match self {
            Self::Block(sides) => sides.times(case, cool),
            Self::Experts(sides) => sides.times(case, cool),
        }
    }
}

/// Every shape in every type with every number of tokens.
fn cases(shapes: &[Shape], options: &BenchOptions) -> Vec<Case> {
    let mut cases = vec![];
    for (i, &shape) in shapes.iter().enumerate() {
        if shapes[..i].contains(&shape) {
            continue;
        }
        for &weights in &options.weights {
            let experts = options.experts;
            let tokens = options.tokens.iter();
            cases.extend(tokens.map(|&tokens| Case { shape, weights, tokens, experts }));
        }
    }
    cases
}

/// Refuses what cannot be measured, and what would exhaust the memory: the system would end the program without a word.
fn check(case: &Case, free: u64) -> Result<()> {
    if let Some(kind) = case.weights.blocks() {
        let (size, shape, weights) = (kind.block_size(), case.shape, case.weights);
        if case.experts.is_some() {
            let reason =
                "experts are measured in f32 and bf16; leave --experts or other --weights out";
            return Err(Error::Input(reason.into()));
        }
        if ![shape.hidden(), shape.intermediate()].iter().all(|n| n.is_multiple_of(size)) {
            return Err(Error::Input(format!(
                "{shape} has rows of no whole blocks of {weights}, of {size}; pass another --shape or other --weights"
            )));
        }
    }
    let needed = case.memory();
    if needed <= free {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    Err(Error::Input(format!(
        "{} of {} with {} tokens needs {:.1} GiB of memory, and {:.1} are free; pass a smaller --shape or fewer --tokens",
        case.experts.map_or("a block".into(), |experts| format!("{} experts", experts.count())),
        case.shape,
        case.tokens,
        gib(needed),
        gib(free)
    )))
}

/// That two sides compute one function, as far as the type of their weights lets them.
#[cfg(test)]
fn assert_agree(
    weights: Weights,
    ours: &candle_core::Tensor,
    candle: &candle_core::Tensor,
) -> Result<()> {
    use candle_core::DType;
    let tolerance = match weights {
        Weights::F32 => 1e-5,
        Weights::Bf16 => 0.05,
        // candle rounds the input to 8 bits.
        _ => 0.06,
    };
    assert_eq!((ours.dims(), ours.dtype()), (candle.dims(), candle.dtype()));
    let [ours, candle] = [ours.to_dtype(DType::F32)?, candle.to_dtype(DType::F32)?];
    let difference = (ours - &candle)?.abs()?.max_all()?.to_scalar::<f32>()?;
    assert!(difference < tolerance, "{weights}: {difference}");
    assert!(candle.abs()?.mean_all()?.to_scalar::<f32>()? > 0.1);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_listed_twice_is_measured_once() -> Result<()> {
        let [a, b] = [Shape::new(8, 12)?, Shape::new(8, 16)?];
        let cases = cases(&[a, b, a], &BenchOptions::default());
        assert_eq!(cases.len(), 2 * 2 * 5);
        assert_eq!((cases[0].shape, cases[0].tokens.get()), (a, 1));
        assert_eq!((cases[19].weights, cases[19].tokens.get()), (Weights::Bf16, 512));
        Ok(())
    }

    #[test]
    fn what_does_not_fit_the_memory_is_refused() -> Result<()> {
        let tokens = NonZeroUsize::MIN;
        let case =
            Case { shape: Shape::new(2048, 16384)?, weights: Weights::F32, tokens, experts: None };
        assert!(check(&case, 16 << 30).is_ok());
        let error = check(&case, 1 << 29).unwrap_err();
        assert!(error.is_input() && error.to_string().contains("2048x16384"), "{error}");
        let endless = Case { tokens: NonZeroUsize::MAX, ..case };
        assert!(check(&endless, u64::MAX - 1).is_err());
        Ok(())
    }
}
