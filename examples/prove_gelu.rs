//! Walks every f32, bf16 and f16 through both GELUs and their derivatives, and prints the worst
//! error of each beside candle's: `cargo run --release --example prove_gelu`.
//!
//! `--sample` takes 2^24 f32 instead of all 2^32, as candle's rows always do. `--stdin WHO FUNCTION
//! DTYPE` judges what somebody else computed: raw results for all numbers of a half type in the
//! order of their bits, or for the sample of f32; scripts/gelu_peers.py sends PyTorch's and JAX's.
//! `--points` prints points of the truth itself, for scripts/check_truth.py.

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor, Var, WithDType};
use gemma_mlp::gelu::measure::{Errors, Function, Measured, measure};
use gemma_mlp::gelu::truth;
use gemma_mlp::{Activation, Float, Gelu};
use half::{bf16, f16};
use rayon::prelude::*;
use std::io::{IsTerminal, Read};
use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers that are computed and judged at a time.
const CHUNK: u64 = 1 << 16;

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => prove(1),
        ["--sample"] => prove(SAMPLE),
        ["--points"] => points(),
        ["--stdin", who, function, dtype] => {
            judge_stdin(who, function.parse().map_err(anyhow::Error::msg)?, dtype)
        }
        _ => bail!(
            "unknown arguments; pass nothing, --sample, --points, or --stdin WHO FUNCTION DTYPE"
        ),
    }
}

/// f64 that are looked at.
const DENSE: u64 = 1 << 22;

/// Of how many f32 the sample has one.
const SAMPLE: u64 = 256;

/// The i-th f32 of those that have one in every stride, each at a place of its own.
fn strided(i: u64, stride: u64) -> f32 {
    f32::from_bits((i * stride + i.wrapping_mul(0x9e37_79b9) % stride) as u32)
}

/// Our four functions and candle's, in every type.
fn prove(stride: u64) -> Result<()> {
    heading();
    for &function in Function::ALL {
        row(
            "gemma-mlp",
            function,
            bf16::NAME,
            walk(1 << 16, |i| bf16::from_bits(i as u16), function, ours)?,
        );
        row(
            "gemma-mlp",
            function,
            f16::NAME,
            walk(1 << 16, |i| f16::from_bits(i as u16), function, ours)?,
        );
        let single = |i| strided(i, stride);
        row("gemma-mlp", function, f32::NAME, walk((1 << 32) / stride, single, function, ours)?);
        row(
            "gemma-mlp",
            function,
            f64::NAME,
            walk(DENSE, |i| dense(function.gelu, i), function, ours)?,
        );
    }
    for &function in Function::ALL {
        row(
            "candle",
            function,
            bf16::NAME,
            walk(1 << 16, |i| bf16::from_bits(i as u16), function, candle)?,
        );
        row(
            "candle",
            function,
            f16::NAME,
            walk(1 << 16, |i| f16::from_bits(i as u16), function, candle)?,
        );
        row(
            "candle",
            function,
            f32::NAME,
            walk(1 << 24, |i| strided(i, SAMPLE), function, candle)?,
        );
    }
    Ok(())
}

/// f64 from where results are about 2^-900 to where they are x itself, at random within steps.
fn dense(gelu: Gelu, i: u64) -> f64 {
    let left = if gelu == Gelu::Exact { -35.0 } else { -19.0 };
    let fraction = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) as f64 / u64::MAX as f64;
    left + (9.0 - left) * (i as f64 + fraction) / DENSE as f64
}

fn ours<T: Float>(function: Function, x: &[T], y: &mut [T]) -> Result<()> {
    let activation = Activation::from(function.gelu);
    if function.derivative {
        activation.derivatives(x, y)
    } else {
        activation.values(x, y)
    }
    Ok(())
}

/// candle's own operations on the CPU, differentiated by candle.
fn candle<T: WithDType>(function: Function, x: &[T], y: &mut [T]) -> Result<()> {
    let x = Var::from_tensor(&Tensor::from_slice(x, x.len(), &Device::Cpu)?)?;
    let result = match function.gelu {
        Gelu::Exact => x.gelu_erf()?,
        Gelu::Tanh => x.gelu()?,
    };
    let result = if function.derivative {
        result.sum_all()?.backward()?.remove(&x).context("no gradient")?
    } else {
        result
    };
    y.copy_from_slice(&result.to_vec1::<T>()?);
    Ok(())
}

/// Computes and judges `count` numbers, all processors at work.
fn walk<T: Measured + Default + Send + Sync>(
    count: u64,
    number: impl Fn(u64) -> T + Sync,
    function: Function,
    compute: impl Fn(Function, &[T], &mut [T]) -> Result<()> + Sync,
) -> Result<Errors> {
    let progress = Progress::new(count, function, T::NAME);
    let chunk = |from: u64| {
        let x: Vec<T> = (from..(from + CHUNK).min(count)).map(&number).collect();
        let mut y = vec![T::default(); x.len()];
        compute(function, &x, &mut y)?;
        progress.add(x.len() as u64);
        Ok(measure(function, &x, &y))
    };
    let chunks = (0..count.div_ceil(CHUNK)).into_par_iter().map(|i| chunk(i * CHUNK));
    chunks.try_reduce(Errors::default, |a, b| Ok(a.and(b)))
}

/// Judges results that arrive on standard input.
fn judge_stdin(who: &str, function: Function, dtype: &str) -> Result<()> {
    let errors = match dtype {
        "bf16" => judge(
            1 << 16,
            function,
            |i| bf16::from_bits(i as u16),
            |b: [u8; 2]| bf16::from_le_bytes(b),
        ),
        "f16" => judge(
            1 << 16,
            function,
            |i| f16::from_bits(i as u16),
            |b: [u8; 2]| f16::from_le_bytes(b),
        ),
        "f32" => {
            judge(1 << 24, function, |i| strided(i, SAMPLE), |b: [u8; 4]| f32::from_le_bytes(b))
        }
        _ => bail!("no type is called '{dtype}': bf16, f16 or f32"),
    };
    row(who, function, dtype, errors?);
    Ok(())
}

fn judge<T: Measured + Send + Sync, const BYTES: usize>(
    count: u64,
    function: Function,
    number: impl Fn(u64) -> T + Sync,
    decode: impl Fn([u8; BYTES]) -> T + Sync,
) -> Result<Errors> {
    /// Read at once, judged by all processors.
    const PORTION: u64 = 1 << 22;
    let progress = Progress::new(count, function, T::NAME);
    let (mut input, mut errors) = (std::io::stdin().lock(), Errors::default());
    let mut bytes = vec![0; count.min(PORTION) as usize * BYTES];
    for start in (0..count).step_by(PORTION as usize) {
        input.read_exact(&mut bytes).context("standard input ended early")?;
        let (results, _) = bytes.as_chunks::<BYTES>();
        let judged = results.par_chunks(CHUNK as usize).enumerate().map(|(i, results)| {
            let from = start + i as u64 * CHUNK;
            let x: Vec<T> = (from..from + results.len() as u64).map(&number).collect();
            let y: Vec<T> = results.iter().map(|&bytes| decode(bytes)).collect();
            progress.add(x.len() as u64);
            measure(function, &x, &y)
        });
        errors = errors.and(judged.reduce(Errors::default, Errors::and));
    }
    Ok(errors)
}

/// Values and derivatives of the truth, with all their digits: name, x, hi, lo.
fn points() -> Result<()> {
    for &function in Function::ALL {
        for i in 0..4000 {
            let fraction = f64::from(i) / 4000.0;
            for x in
                [-24.0 + 36.0 * fraction, (-700.0 * fraction).exp2(), -(-700.0 * fraction).exp2()]
            {
                let truth = truth(function.gelu, [x]);
                let y = if function.derivative { truth.derivative } else { truth.value };
                println!("{function} {x:e} {:e} {:e}", y.hi[0], y.lo[0]);
            }
        }
    }
    Ok(())
}

fn heading() {
    println!(
        "| | function | dtype | inputs | worst, ULP | at x | not nearest | worst at the derivative's zero | at x | NaN or ∞ |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
}

fn row(who: &str, function: Function, dtype: &str, errors: Errors) {
    let Errors { inputs, ulp, ulp_at, zero, zero_at, misrounded, not_finite } = errors;
    let at = |x: f64| if x.abs() < 1e-4 { format!("{x:e}") } else { x.to_string() };
    let (zero, zero_at) = match function.derivative {
        true => (format!("{zero:.1e}"), at(zero_at)),
        false => ("".into(), "".into()),
    };
    let ulp = if ulp < 1000.0 { format!("{ulp:.4}") } else { format!("{ulp:.3e}") };
    println!(
        "| {who} | {function} | {dtype} | {inputs} | {ulp} | {} | {misrounded} | {zero} | {zero_at} | {not_finite} |",
        at(ulp_at)
    );
}

/// A percentage on standard error, if somebody looks.
struct Progress {
    count: u64,
    done: AtomicU64,
    what: String,
}

impl Progress {
    fn new(count: u64, function: Function, dtype: &str) -> Self {
        Self { count, done: AtomicU64::new(0), what: format!("{function} in {dtype}") }
    }

    fn add(&self, n: u64) {
        let percent = |done| done * 100 / self.count;
        let before = self.done.fetch_add(n, Ordering::Relaxed);
        if percent(before) != percent(before + n) && std::io::stderr().is_terminal() {
            eprint!("\r{}: {} %   \r", self.what, percent(before + n));
        }
    }
}
