//! A forward pass of a checkpoint's model, with a look at every block's gate on the way.
//!
//! `cargo run --release --example forward [-- DIRECTORY]`

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use gemma_mlp::model::{Block, Observer, Stats, top_tokens};
use gemma_mlp::{Checkpoint, Gemma};

/// Prints how large each block's gate pre-activations are: where they are around ±2.7, the two
/// forms of GELU differ most.
struct Gates;

impl Observer for Gates {
    fn block(&mut self, block: Block) -> candle_core::Result<()> {
        let gate = Stats::of(&block.projected.gate).map_err(candle_core::Error::wrap)?;
        println!("layer {}: gate RMS {:.3}, max {:.2}", block.index, gate.rms, gate.max_abs);
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
    for token in &top_tokens(&checkpoint, &logits, 3)?[0] {
        println!("{:?} with probability {:.3}", token.text, token.probability);
    }
    Ok(())
}
