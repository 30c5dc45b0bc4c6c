//! The feed-forward of candle-transformers' Gemma replaced by this crate's block, and the drift that
//! makes: how far both are from the block in f64, on what the model's own layers feed it.
//!
//! `cargo run --release --example replace_mlp [-- DIRECTORY]`

use anyhow::Result;
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{Linear, VarBuilder, linear_no_bias};
use gemma_mlp::model::{Block, Observer};
use gemma_mlp::{Activation, Checkpoint, Gemma, GemmaMlp};

/// What candle-transformers 0.11 has in `models/gemma3.rs`, where it is private.
struct Theirs {
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: candle_nn::Activation,
}

impl Theirs {
    fn new(hidden: usize, intermediate: usize, vb: VarBuilder) -> candle_core::Result<Self> {
        Ok(Self {
            gate: linear_no_bias(hidden, intermediate, vb.pp("gate_proj"))?,
            up: linear_no_bias(hidden, intermediate, vb.pp("up_proj"))?,
            down: linear_no_bias(intermediate, hidden, vb.pp("down_proj"))?,
            activation: candle_nn::Activation::GeluPytorchTanh,
        })
    }

    /// The replacement: in your copy of the model, a field of this type and this call.
    fn ours(&self) -> Result<GemmaMlp> {
        let activation = Activation::try_from(self.activation)?;
        let [gate, up, down] = [&self.gate, &self.up, &self.down].map(Clone::clone);
        Ok(GemmaMlp::new(gate, up, down, activation)?.packed()?)
    }
}

impl Module for Theirs {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let gated = self.activation.forward(&self.gate.forward(x)?)?;
        self.down.forward(&(gated * self.up.forward(x)?)?)
    }
}

/// Keeps what each layer feeds its block.
#[derive(Default)]
struct Inputs(Vec<Tensor>);

impl Observer for Inputs {
    fn block(&mut self, block: Block) -> candle_core::Result<()> {
        self.0.push(block.input.squeeze(0)?); // [seq, hidden]
        Ok(())
    }
}

/// ‖b − a‖ / ‖a‖.
fn distance(a: &Tensor, b: &Tensor) -> candle_core::Result<f64> {
    let norm = |x: &Tensor| x.sqr()?.sum_all()?.sqrt()?.to_scalar::<f64>();
    let b = b.to_dtype(DType::F64)?;
    Ok(norm(&(b - a)?)? / norm(a)?)
}

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).unwrap_or("weights/tiny-gemma3".into());
    let checkpoint = Checkpoint::open(dir)?;
    let text = "The quick brown fox jumps over the lazy dog.";
    let ids = Tensor::new(vec![checkpoint.encode(text)?], &Device::Cpu)?; // [1, seq]
    let mut inputs = Inputs::default();
    Gemma::load(&checkpoint, &Device::Cpu, DType::F32)?.hidden(&ids, &mut inputs)?;
    println!("relative L2 to f64    theirs      ours");
    for dtype in [DType::F32, DType::BF16] {
        for (block, input) in checkpoint.blocks().iter().zip(&inputs.0) {
            let load = |dtype| {
                let vb = checkpoint.tensors().var_builder(dtype, &Device::Cpu).pp(&block.name);
                Theirs::new(block.hidden_size, block.intermediate_size, vb)
            };
            let x = input.to_dtype(dtype)?;
            let theirs = load(dtype)?;
            let truth = load(DType::F64)?.forward(&x.to_dtype(DType::F64)?)?;
            let far = |y: Tensor| distance(&truth, &y);
            let (them, us) = (far(theirs.forward(&x)?)?, far(theirs.ours()?.forward(&x)?)?);
            println!("{:4}  block {:2}      {them:.2e}  {us:.2e}", dtype.as_str(), block.index);
        }
    }
    Ok(())
}
