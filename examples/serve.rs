//! One packed model, shared by the workers of a service: each has its own cache, no weight is copied.
//!
//! `cargo run --release --example serve [-- DIRECTORY]`

use anyhow::{Context, Result};
use candle_core::{D, DType, Device, Tensor};
use gemma_mlp::model::Cache;
use gemma_mlp::{Checkpoint, Gemma};
use std::sync::mpsc;
use std::thread;

const PROMPTS: [&str; 4] =
    ["The small dog", "Every Friday, Mia", "The quick brown fox", "Leo sings"];
const TOKENS: usize = 12;

/// Continues a prompt by the likeliest tokens.
fn answer(checkpoint: &Checkpoint, gemma: &Gemma, prompt: &str) -> Result<String> {
    let mut cache = Cache::default(); // this request's own keys and values
    let mut ids = checkpoint.encode(prompt)?;
    let mut answer = vec![];
    while answer.len() < TOKENS {
        let input = Tensor::new(vec![ids], &Device::Cpu)?; // [1, seq], then [1, 1]
        let logits = gemma.forward_cached(&input, &mut cache)?; // [1, 1, vocab]
        let next = logits.argmax(D::Minus1)?.flatten_all()?.to_vec1::<u32>()?[0];
        if checkpoint.config().eos_token_ids.contains(&next) {
            break;
        }
        answer.push(next);
        ids = vec![next];
    }
    Ok(checkpoint.decode(&answer)?)
}

fn main() -> Result<()> {
    let dir = std::env::args().nth(1).unwrap_or("weights/tiny-gemma3".into());
    let checkpoint = Checkpoint::open(dir)?;
    // On a CPU its matrices are packed, in the dtype that they are stored in.
    let gemma = Gemma::load(&checkpoint, &Device::Cpu, DType::F32)?;
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        for (number, prompt) in PROMPTS.iter().enumerate() {
            let (send, checkpoint, gemma) = (send.clone(), &checkpoint, &gemma);
            scope.spawn(move || send.send((number, answer(checkpoint, gemma, prompt))));
        }
    });
    drop(send);
    let mut answers: Vec<_> = receive.iter().collect();
    answers.sort_by_key(|(number, _)| *number);
    for (number, answer) in answers {
        let prompt = PROMPTS[number];
        println!("{prompt}{}", answer.with_context(|| format!("continuing \"{prompt}\""))?);
    }
    Ok(())
}
