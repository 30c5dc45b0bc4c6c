//! What a second side costs: both sides in lockstep against one alone, interleaved in one run.
//!
//! `cargo bench --bench lockstep [-- DIRECTORY]` prints the medians and their ratio, for one token
//! (bound by reading weights) and for a prompt (bound by arithmetic).

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use gemma_mlp::{Activation, Checkpoint};
use gemma_mlp_drift::drift::{Caches, Lockstep, Side};
use std::time::{Duration, Instant};

const PROMPT: usize = 512;

fn main() -> Result<()> {
    let directory = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let checkpoint = match directory {
        Some(dir) => Checkpoint::open(dir)?,
        None => Checkpoint::open("weights/tiny-gemma3")?,
    };
    let side = |activation| Side::new(activation, DType::F32);
    let (tanh, exact) = (side(Activation::TANH), side(Activation::EXACT));
    let one = Lockstep::load(&checkpoint, &[tanh], &Device::Cpu)?;
    let both = Lockstep::load(&checkpoint, &[tanh, exact], &Device::Cpu)?;
    println!("{}", checkpoint.source());

    let prompts = vec![(0..32).map(|i| 4 + i * 37 % 900).collect::<Vec<u32>>(); 2];
    let (mut caches_one, mut caches_both) = (Caches::default(), Caches::default());
    one.next(&prompts[..1], &mut caches_one)?;
    both.next(&prompts, &mut caches_both)?;
    let token = [vec![7], vec![7]];
    report(
        "one token",
        31,
        || one.next(&token[..1], &mut caches_one).map(|_| ()).map_err(Into::into),
        || both.next(&token, &mut caches_both).map(|_| ()).map_err(Into::into),
    )?;

    let ids: Vec<u32> = (0..PROMPT as u32).map(|i| 4 + i * 37 % 900).collect();
    let ids = Tensor::from_vec(ids, (1, PROMPT), &Device::Cpu)?;
    let pass = |lockstep: &Lockstep, sides: usize| {
        let hidden = lockstep.run(None, &ids, &vec![PROMPT; sides], |_, _, _| Ok(()))?;
        let all = Tensor::cat(&hidden, 0)?;
        lockstep.model(0).logits(&all.narrow(1, 0, PROMPT / 4)?)?;
        Ok(())
    };
    report("512 tokens and 128 positions' logits", 7, || pass(&one, 1), || pass(&both, 2))
}

/// Interleaves two pieces of work and prints their medians.
fn report(
    what: &str,
    rounds: usize,
    mut one: impl FnMut() -> Result<()>,
    mut both: impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut times = [vec![], vec![]];
    for _ in 0..rounds {
        times[0].push(timed(&mut one)?);
        times[1].push(timed(&mut both)?);
    }
    let [one, both] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e3
    });
    println!("{what}: one side {one:.2} ms, both {both:.2} ms, ratio {:.2}", both / one);
    Ok(())
}

fn timed(work: &mut impl FnMut() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}
