//! GELU of a million numbers on one thread, in chunks that stay in the cache: ours beside candle's,
//! interleaved in one run.
//!
//! `cargo bench --bench gelu [-- --chunk 16384]` prints nanoseconds a number and ratios;
//! scripts/bench_gelu.py puts PyTorch's beside them.

use candle_core::{Device, Result, Tensor, WithDType};
use gemma_mlp::{Activation, Float, Gelu};
use half::{bf16, f16};
use std::hint::black_box;
use std::time::Instant;

const COUNT: usize = 1 << 20;
const ROUNDS: usize = 15;

fn main() -> Result<()> {
    if std::env::var("RAYON_NUM_THREADS").as_deref() != Ok("1") {
        return again_on_one_thread();
    }
    let mut arguments = std::env::args().skip_while(|argument| argument != "--chunk").skip(1);
    let chunk = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(1 << 14);
    println!("ns a number, chunks of {chunk}: median of {ROUNDS}, ours and candle's in turns");
    println!("| | ours | candle | ratio |");
    println!("|---|---|---|---|");
    for &gelu in Gelu::ALL {
        row::<f32>("f32", gelu, chunk, |x| x)?;
        row::<bf16>("bf16", gelu, chunk, bf16::from_f32)?;
        row::<f16>("f16", gelu, chunk, f16::from_f32)?;
        row::<f64>("f64", gelu, chunk, f64::from)?;
    }
    Ok(())
}

/// The same program with one thread to each pool: candle's and rayon's read the variable, and a
/// process cannot safely set its own.
fn again_on_one_thread() -> Result<()> {
    let program = std::env::current_exe()?;
    let arguments = std::env::args().skip(1);
    let status = std::process::Command::new(program)
        .args(arguments)
        .env("RAYON_NUM_THREADS", "1")
        .status()?;
    std::process::exit(status.code().unwrap_or(1));
}

/// One type's medians.
fn row<T: WithDType + Float>(
    dtype: &str,
    gelu: Gelu,
    chunk: usize,
    of: impl Fn(f32) -> T,
) -> Result<()> {
    // Gaussian with a standard deviation of 2, much as gates are.
    let x: Vec<T> = (0..COUNT).map(|i| of(gaussian(i) * 2.0)).collect();
    let tensors = x.chunks(chunk).map(|x| Tensor::from_slice(x, x.len(), &Device::Cpu));
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    let mut y = vec![T::zero(); chunk];
    let (mut ours, mut candle) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        ours.push(timed(|| {
            for x in x.chunks(chunk) {
                Activation::from(gelu).values(black_box(x), &mut y[..x.len()]);
            }
            Ok(())
        })?);
        candle.push(timed(|| {
            for x in &tensors {
                black_box(match gelu {
                    Gelu::Exact => x.gelu_erf()?,
                    Gelu::Tanh => x.gelu()?,
                });
            }
            Ok(())
        })?);
    }
    let (ours, candle) = (median(ours), median(candle));
    println!("| {gelu} {dtype} | {ours:.3} | {candle:.3} | {:.1} |", candle / ours);
    Ok(())
}

/// The sum of twelve uniform numbers, the same on every machine.
fn gaussian(i: usize) -> f32 {
    let uniform = |k: usize| {
        let hash = (i * 12 + k).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (hash >> 40) as f32 / (1 << 24) as f32
    };
    (0..12).map(uniform).sum::<f32>() - 6.0
}

/// Nanoseconds a number.
fn timed(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1e9 / COUNT as f64)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
