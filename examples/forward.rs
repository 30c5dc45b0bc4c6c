//! A forward pass of a checkpoint's model, with a look at every block's gate on the way.
//!
//! `cargo run --release --example forward [-- DIRECTORY]`

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use candle_nn::ops::softmax;
use gemma_mlp::model::{Block, Observer};
use gemma_mlp::{Checkpoint, Gemma};

/// Prints how large each block's gate pre-activations are: where they are around ±2.7, the two
/// forms of GELU differ most.
struct Gates;

impl Observer for Gates {
    fn block(&mut self, block: Block) -> candle_core::Result<()> {
        let gate = &block.projected.gate;
        let rms = gate.sqr()?.mean_all()?.sqrt()?.to_scalar::<f32>()?;
        let max = gate.abs()?.max_all()?.to_scalar::<f32>()?;
        println!("layer {}: gate RMS {rms:.3}, max {max:.2}", block.index);
        Ok(())
    }
}

fn main() -> Result<()> {
    let checkpoint = match std::env::args().nth(1) {
        Some(dir) => Checkpoint::open(dir)?,
        None => Checkpoint::open("weights/tiny-gemma3")?,
    };
    let gemma = Gemma::load(&checkpoint, &Device::Cpu, DType::F32)?;
    let ids = Tensor::new(vec![checkpoint.encode("The quick brown fox")?], &Device::Cpu)?; // [1, seq]
    let hidden = gemma.hidden(&ids, &mut Gates)?; // [1, seq, hidden]
    let last = hidden.narrow(1, hidden.dim(1)? - 1, 1)?;
    let logits = gemma.logits(&last)?.squeeze(1)?; // [1, vocab]
    let probabilities = softmax(&logits, 1)?.get(0)?;
    let likeliest = probabilities.argmax(0)?.to_scalar::<u32>()?;
    let probability = probabilities.get(likeliest as usize)?.to_scalar::<f32>()?;
    println!("{:?} with probability {probability:.3}", checkpoint.decode(&[likeliest])?);
    Ok(())
}
