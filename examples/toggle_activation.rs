//! One set of weights under both forms of GELU: outputs and gradients, and how far they are apart.
//!
//! `cargo run --release --example toggle_activation`

use anyhow::{Context, Result};
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use gemma_mlp::drift::{Accumulator, Metrics};
use gemma_mlp::{Gelu, GemmaMlp, gemma_mlp};

const HIDDEN: usize = 256;
const INTERMEDIATE: usize = 1024;

fn main() -> Result<()> {
    let device = Device::Cpu;
    let vb = VarBuilder::from_varmap(&VarMap::new(), DType::F32, &device);
    let tanh = gemma_mlp(HIDDEN, INTERMEDIATE, Gelu::Tanh, vb)?;
    let exact = tanh.with_activation("gelu".parse::<Gelu>()?); // as transformers calls it; no copy
    let x = Tensor::randn(0f32, 1f32, (1, 32, HIDDEN), &device)?; // [batch, seq, hidden]

    let output = distance(&tanh.forward(&x)?, &exact.forward(&x)?)?;
    let gradient = distance(&input_gradient(&tanh, &x)?, &input_gradient(&exact, &x)?)?;
    for (what, metrics) in [("output", output), ("input gradient", gradient)] {
        println!(
            "{what:14}  max |difference| {:.2e}  relative L2 {:.2e}",
            metrics.max_abs, metrics.rel_l2
        );
    }

    // Both outputs from one pass over gate and up:
    let pair = exact.forward_pair(&x)?;
    assert_eq!(distance(&pair.tanh, &pair.exact)?, output);
    Ok(())
}

fn distance(a: &Tensor, b: &Tensor) -> Result<Metrics> {
    let mut sums = Accumulator::default();
    sums.add(a, b)?;
    Ok(sums.metrics())
}

/// The gradient of the mean square of the block's output with respect to its input.
fn input_gradient(mlp: &GemmaMlp, x: &Tensor) -> Result<Tensor> {
    let x = Var::from_tensor(x)?;
    let grads = mlp.forward(&x)?.sqr()?.mean_all()?.backward()?;
    Ok(grads.get(&x).context("no gradient reached the input")?.clone())
}
