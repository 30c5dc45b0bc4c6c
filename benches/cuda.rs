//! The fused kernels beside a copy, and the block beside its three products and candle's own
//! operations, on a GPU: `cargo bench --features cuda --bench cuda`, and beside PyTorch's by
//! `scripts/bench_cuda.py`. Without a GPU it says so and ends.
//!
//! Pieces of work that are compared take turns, a round each, and the GPU is waited for before and
//! after a round; a round repeats its work until waiting no longer counts. Medians of the rounds.

use anyhow::Result;
use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::Linear;
use gemma_mlp::{Gelu, GemmaMlp, device, geglu};
use std::time::{Duration, Instant};

const ROUNDS: usize = 9;
/// How long a round takes at least: every wait gives the driver its free memory back, and the round
/// begins by asking for it again.
const ROUND: Duration = Duration::from_millis(100);
/// Elements of each tensor of a kernel: 4096 tokens of a block of 16384.
const ELEMENTS: usize = 4096 * 16384;
/// Hidden and intermediate sizes: Gemma 1 2B, 2 2B, 1 7B and 3 27B.
const BLOCKS: [(usize, usize); 4] = [(2048, 16384), (2304, 9216), (3072, 24576), (5376, 21504)];
const TOKENS: [usize; 4] = [1, 16, 512, 4096];

type Work<'a> = (&'static str, Box<dyn Fn() -> Result<()> + 'a>);

fn main() -> Result<()> {
    let device = match device::gpu() {
        Ok(device) => device,
        Err(why) => {
            println!("nothing measured, as there is no GPU: {why}");
            return Ok(());
        }
    };
    println!("{}, candle 0.11.1\n", device::name(&device));
    println!("| kernel | dtype | GB/s | of a copy |\n|---|---|---|---|");
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        kernels(&device, dtype)?;
    }
    println!("\nThe block in ms; in GB/s, how fast its weights are read with one token\n");
    println!(
        "| block | dtype | tokens | tanh | exact | both | three products | candle's operations | GB/s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for dtype in [DType::BF16, DType::F16] {
        for (hidden, intermediate) in BLOCKS {
            blocks(&device, dtype, hidden, intermediate)?;
        }
    }
    Ok(())
}

/// Bytes moved per second by each kernel, and by a copy.
fn kernels(device: &Device, dtype: DType) -> Result<()> {
    let tensor = || Tensor::randn(0f32, 1.5, ELEMENTS, device)?.to_dtype(dtype);
    let (gate, up, grad) = (tensor()?, tensor()?, tensor()?);
    let graph = |gelu: Gelu| -> Result<(Tensor, Var)> {
        let variable = Var::from_tensor(&gate)?;
        Ok((geglu(&variable, &up, gelu)?.mul(&grad)?.sum_all()?, variable))
    };
    let (of_exact, of_tanh) = (graph(Gelu::Exact)?, graph(Gelu::Tanh)?);
    let forward = |gelu: Gelu| geglu(&gate, &up, gelu).map(drop).map_err(Into::into);
    // With the backward passes of the product with grad and of the sum, which read and write too.
    let backward = |(loss, _): &(Tensor, Var)| loss.backward().map(drop).map_err(Into::into);
    let work: [Work; 5] = [
        ("copy", Box::new(|| gate.copy().map(drop).map_err(Into::into))),
        ("geglu tanh", Box::new(|| forward(Gelu::Tanh))),
        ("geglu exact", Box::new(|| forward(Gelu::Exact))),
        ("whole backward pass, tanh", Box::new(|| backward(&of_tanh))),
        ("whole backward pass, exact", Box::new(|| backward(&of_exact))),
    ];
    let times = medians(device, &work)?;
    let bytes = (ELEMENTS * dtype.size_in_bytes()) as f64;
    let copy = 2.0 * bytes / times[0];
    for ((name, _), time) in work.iter().zip(&times) {
        // Of a backward pass only the time says something.
        let tensors = match *name {
            "copy" => 2.0,
            name if name.starts_with("geglu") => 3.0,
            _ => {
                println!("| {name} | {} | {:.3} ms | |", dtype.as_str(), time * 1e3);
                continue;
            }
        };
        let rate = tensors * bytes / time;
        println!("| {name} | {} | {:.0} | {:.3} |", dtype.as_str(), rate / 1e9, rate / copy);
    }
    Ok(())
}

/// One block at all numbers of tokens.
fn blocks(device: &Device, dtype: DType, hidden: usize, intermediate: usize) -> Result<()> {
    let weight = |out: usize, from: usize| -> Result<Tensor> {
        let deviation = 1.0 / (from as f64).sqrt();
        Ok(Tensor::randn(0f32, deviation as f32, (out, from), device)?.to_dtype(dtype)?)
    };
    let (gate, up) = (weight(intermediate, hidden)?, weight(intermediate, hidden)?);
    let down = weight(hidden, intermediate)?;
    let layer = |weight: &Tensor| Linear::new(weight.clone(), None);
    let tanh = GemmaMlp::new(layer(&gate), layer(&up), layer(&down), Gelu::Tanh)?;
    let exact = tanh.with_activation(Gelu::Exact);
    for tokens in TOKENS {
        let x = Tensor::randn(0f32, 1.0, (tokens, hidden), device)?.to_dtype(dtype)?;
        let product = Tensor::randn(0f32, 1.0, (tokens, intermediate), device)?.to_dtype(dtype)?;
        let products = || -> Result<()> {
            x.matmul(&gate.t()?)?;
            x.matmul(&up.t()?)?;
            product.matmul(&down.t()?)?;
            Ok(())
        };
        let candle = || -> Result<()> {
            let activated = x.matmul(&gate.t()?)?.gelu()?;
            (activated * x.matmul(&up.t()?)?)?.matmul(&down.t()?)?;
            Ok(())
        };
        let work: [Work; 5] = [
            ("tanh", Box::new(|| tanh.forward(&x).map(drop).map_err(Into::into))),
            ("exact", Box::new(|| exact.forward(&x).map(drop).map_err(Into::into))),
            ("both", Box::new(|| tanh.forward_pair(&x).map(drop).map_err(Into::into))),
            ("three products", Box::new(products)),
            ("candle", Box::new(candle)),
        ];
        let times = medians(device, &work)?;
        let cells: Vec<String> = times.iter().map(|time| format!("{:.4}", time * 1e3)).collect();
        let bytes = 3 * hidden * intermediate * dtype.size_in_bytes();
        let rate =
            if tokens == 1 { format!("{:.0}", bytes as f64 / times[0] / 1e9) } else { "".into() };
        println!(
            "| {hidden}x{intermediate} | {} | {tokens} | {} | {rate} |",
            dtype.as_str(),
            cells.join(" | ")
        );
    }
    Ok(())
}

/// The medians of pieces of work in seconds.
fn medians(device: &Device, work: &[Work]) -> Result<Vec<f64>> {
    let timed = |work: &Work, repeats: u32| -> Result<Duration> {
        device.synchronize()?;
        let start = Instant::now();
        for _ in 0..repeats {
            work.1()?;
        }
        device.synchronize()?;
        Ok(start.elapsed())
    };
    let mut repeats = vec![];
    for work in work {
        timed(work, 3)?; // loads kernels
        let once = timed(work, 3)? / 3;
        repeats.push((ROUND.as_secs_f64() / once.as_secs_f64()).ceil().clamp(1.0, 10_000.0) as u32);
    }
    let mut times = vec![vec![]; work.len()];
    for _ in 0..ROUNDS {
        for ((work, &repeats), times) in work.iter().zip(&repeats).zip(&mut times) {
            times.push(timed(work, repeats)? / repeats);
        }
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64()
    };
    Ok(times.into_iter().map(median).collect())
}
