//! Loads the first MLP of a checkpoint and runs it on a prompt.
//!
//! `cargo run --release --example forward [-- DIRECTORY]`; without a directory it takes the
//! checkpoint inside the library.

use anyhow::Result;
use candle_core::{DType, Device, Module};
use gemma_mlp::Checkpoint;
use gemma_mlp::model::{Stats, TokenIds, load_mlp, mlp_input};

fn main() -> Result<()> {
    let checkpoint = match std::env::args().nth(1) {
        Some(dir) => Checkpoint::open(dir)?,
        None => Checkpoint::embedded()?,
    };
    let device = Device::cuda_if_available(0)?;
    let block = &checkpoint.blocks()[0];
    let mlp = load_mlp(&checkpoint, block, DType::F32, &device)?;
    println!("{} with {}: {}", block.name, mlp.activation(), block.activation.reason);

    let ids = TokenIds::single(checkpoint.encode("What does the MLP make of this?")?)?;
    let (x, _) = mlp_input(&checkpoint, block, &ids, &device)?; // [batch, seq, hidden]
    let y = mlp.forward(&x)?; // [batch, seq, hidden]
    println!("input  {:?}, RMS {:.4}", x.dims(), Stats::of(&x)?.rms);
    println!("output {:?}, RMS {:.4}", y.dims(), Stats::of(&y)?.rms);
    Ok(())
}
