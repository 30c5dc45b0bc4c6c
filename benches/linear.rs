//! One block's forward pass, packed, beside candle's operations on the same weights, and both forms
//! of GELU at once.
//!
//! `cargo bench --bench linear [-- FILTER]` prints the spread of times. Weights that fit the caches
//! stay in them here, as suits the tuning of kernels; `gemma-mlp bench` reads them from memory.

use candle_core::{DType, Device, Module, Result, Tensor};
use candle_nn::Linear;
use divan::{Bencher, black_box};
use gemma_mlp::{Gelu, GemmaMlp};
use std::fmt;

fn main() {
    divan::main();
}

#[divan::bench(args = cases(), max_time = 1)]
fn packed(bencher: Bencher, case: &Case) {
    case.run(bencher, case.packed(Gelu::Tanh), |block, x| block.forward(x));
}

#[divan::bench(args = cases(), max_time = 1)]
fn packed_exact(bencher: Bencher, case: &Case) {
    case.run(bencher, case.packed(Gelu::Exact), |block, x| block.forward(x));
}

#[divan::bench(args = cases(), max_time = 1)]
fn pair(bencher: Bencher, case: &Case) {
    case.run(bencher, case.packed(Gelu::Tanh), |block, x| block.forward_pair(x));
}

#[divan::bench(args = cases(), max_time = 1)]
fn candle(bencher: Bencher, case: &Case) {
    case.run(bencher, case.block(), |[gate, up, down], x| {
        down.forward(&(gate.forward(x)?.gelu()? * up.forward(x)?)?)
    });
}

struct Case {
    hidden: usize,
    intermediate: usize,
    tokens: usize,
    dtype: DType,
}

fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for (hidden, intermediate) in [(640, 2048), (2048, 16384)] {
        for dtype in [DType::F32, DType::BF16] {
            cases.extend([1, 16, 128].map(|tokens| Case { hidden, intermediate, tokens, dtype }));
        }
    }
    cases
}

impl Case {
    /// Our block.
    fn packed(&self, gelu: Gelu) -> Result<GemmaMlp> {
        let [gate, up, down] = self.block()?;
        GemmaMlp::new(gate, up, down, gelu)?.packed()
    }

    /// Gate, up and down.
    fn block(&self) -> Result<[Linear; 3]> {
        let layer = |rows: usize, columns: usize| {
            let stdev = 1.0 / (columns as f32).sqrt();
            let weight = Tensor::randn(0f32, stdev, (rows, columns), &Device::Cpu)?;
            Ok::<_, candle_core::Error>(Linear::new(weight.to_dtype(self.dtype)?, None))
        };
        let (hidden, intermediate) = (self.hidden, self.intermediate);
        Ok([
            layer(intermediate, hidden)?,
            layer(intermediate, hidden)?,
            layer(hidden, intermediate)?,
        ])
    }

    fn run<B, Y>(&self, bencher: Bencher, block: Result<B>, f: impl Fn(&B, &Tensor) -> Result<Y>) {
        let block = block.expect("enough memory");
        let x = Tensor::randn(0f32, 1.0, (self.tokens, self.hidden), &Device::Cpu);
        let x = x.and_then(|x| x.to_dtype(self.dtype)).expect("enough memory");
        bencher.bench_local(|| f(black_box(&block), black_box(&x)).expect("shapes that fit"));
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { hidden, intermediate, tokens, dtype } = self;
        write!(f, "{hidden}x{intermediate} {} {tokens}", dtype.as_str())
    }
}
