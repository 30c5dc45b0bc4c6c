//! One set of weights under both forms of GELU: outputs and gradients, and how far they are apart.
//!
//! `cargo run --release --example toggle_activation`

use anyhow::{Context, Result};
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
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
    for (what, [max_abs, rel_l2]) in [("output", output), ("input gradient", gradient)] {
        println!("{what:14}  max |difference| {max_abs:.2e}  relative L2 {rel_l2:.2e}");
    }

    // Both outputs from one pass over gate and up:
    let pair = exact.forward_pair(&x)?;
    assert_eq!(distance(&pair.tanh, &pair.exact)?, output);
    Ok(())
}

/// The largest difference, and ‖b − a‖ / ‖a‖.
fn distance(a: &Tensor, b: &Tensor) -> Result<[f32; 2]> {
    let difference = (b - a)?;
    let norm = |x: &Tensor| x.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>();
    let max_abs = difference.abs()?.max_all()?.to_scalar()?;
    Ok([max_abs, norm(&difference)? / norm(a)?])
}

/// The gradient of the mean square of the block's output with respect to its input.
fn input_gradient(mlp: &GemmaMlp, x: &Tensor) -> Result<Tensor> {
    let x = Var::from_tensor(x)?;
    let grads = mlp.forward(&x)?.sqr()?.mean_all()?.backward()?;
    Ok(grads.get(&x).context("no gradient reached the input")?.clone())
}
