//! Several callers that share blocks, as the workers of a service do: one token a call, each caller on
//! a thread of its own, as fast as it can.
//!
//! `cargo bench --bench callers [-- SECONDS]` (4; 0 leaves this table out) prints, for blocks packed, packed with a rayon pool of one
//! thread for each worker, and of candle's tensors: calls a second, the median, 99th percentile and
//! longest call, the longest over the median, and the CPU time of a call. Ways take turns in rounds of a
//! second, so that a machine that is busy with other things slows all of them. A second table has what
//! single calls cost that come a millisecond apart, on some numbers of threads.

use anyhow::Result;
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::Linear;
use cpu_time::ProcessTime;
use gemma_mlp::{Gelu, GemmaMlp};
use std::sync::Barrier;
use std::time::{Duration, Instant};

const CALLERS: [usize; 4] = [1, 2, 3, 8];
const ROUND: Duration = Duration::from_secs(1);

fn main() -> Result<()> {
    let seconds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(4);
    if seconds > 0 {
        together(seconds)?;
    }
    spaced()
}

/// Callers that call all the time.
fn together(seconds: usize) -> Result<()> {
    println!(
        "| blocks | weights | callers | way | calls/s | median ms | 99 % | longest | longest/median | CPU ms/call |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (hidden, intermediate, layers) in [(640, 2048, 18), (2048, 16384, 1)] {
        for dtype in [DType::F32, DType::BF16] {
            let tensors = (0..layers).map(|_| block(hidden, intermediate, dtype));
            let tensors = tensors.collect::<Result<Vec<_>>>()?;
            let packed = tensors.iter().map(GemmaMlp::packed).collect::<Result<Vec<_>, _>>()?;
            let x = Tensor::randn(0f32, 1., (1, hidden), &Device::Cpu)?.to_dtype(dtype)?;
            let ways = [
                ("packed", &packed, false),
                ("packed, a pool of 1 each", &packed, true),
                ("candle", &tensors, false),
            ];
            for callers in CALLERS {
                let mut results = ways.map(|_| Calls::default());
                for _ in 0..seconds {
                    for ((_, blocks, alone), calls) in ways.iter().zip(&mut results) {
                        calls.add(run(blocks, &x, callers, *alone)?);
                    }
                }
                for ((name, ..), calls) in ways.iter().zip(results) {
                    let blocks = format!("{layers} of {hidden}x{intermediate}");
                    println!("| {blocks} | {} | {callers} | {name} | {calls} |", dtype.as_str());
                }
            }
        }
    }
    println!();
    Ok(())
}

/// Single calls with pauses between them: whoever stays awake in these pays for it.
fn spaced() -> Result<()> {
    const CALLS: u32 = 2000;
    println!(
        "\n| block, one token, calls a millisecond apart | threads | median ms | CPU ms/call |"
    );
    println!("|---|---|---|---|");
    for (hidden, intermediate) in [(128, 1024), (640, 2048)] {
        let block = block(hidden, intermediate, DType::F32)?.packed()?;
        let x = Tensor::randn(0f32, 1., (1, hidden), &Device::Cpu)?;
        for threads in [1, 2, 8] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            let (mut waits, cpu) = pool.install(|| -> Result<_> {
                block.forward(&x)?;
                let (cpu, mut waits) = (ProcessTime::now(), vec![]);
                for _ in 0..CALLS {
                    std::thread::sleep(Duration::from_millis(1));
                    let start = Instant::now();
                    block.forward(&x)?;
                    waits.push(start.elapsed().as_secs_f64() * 1e3);
                }
                Ok((waits, cpu.elapsed() / CALLS))
            })?;
            waits.sort_by(f64::total_cmp);
            let (median, cpu) = (waits[waits.len() / 2], cpu.as_secs_f64() * 1e3);
            println!("| {hidden}x{intermediate} | {threads} | {median:.3} | {cpu:.3} |");
        }
    }
    Ok(())
}

fn block(hidden: usize, intermediate: usize, dtype: DType) -> Result<GemmaMlp> {
    let layer = |rows, columns| -> Result<Linear> {
        let weight =
            Tensor::randn(0f32, (columns as f32).powf(-0.5), (rows, columns), &Device::Cpu)?;
        Ok(Linear::new(weight.to_dtype(dtype)?, None))
    };
    let (gate, up) = (layer(intermediate, hidden)?, layer(intermediate, hidden)?);
    Ok(GemmaMlp::new(gate, up, layer(hidden, intermediate)?, Gelu::Tanh)?)
}

/// What callers saw.
#[derive(Default)]
struct Calls {
    /// How long each call took, in milliseconds.
    waits: Vec<f64>,
    wall: Duration,
    cpu: Duration,
}

impl Calls {
    fn add(&mut self, other: Self) {
        self.waits.extend(other.waits);
        self.wall += other.wall;
        self.cpu += other.cpu;
    }
}

impl std::fmt::Display for Calls {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let mut waits = self.waits.clone();
        waits.sort_by(f64::total_cmp);
        let at = |part: f64| waits[((waits.len() - 1) as f64 * part) as usize];
        let (calls, median, longest) = (waits.len() as f64, at(0.5), at(1.0));
        let cpu = self.cpu.as_secs_f64() * 1e3 / calls;
        let rate = calls / self.wall.as_secs_f64();
        write!(f, "{rate:.1} | {median:.2} | {:.2} | {longest:.2} | ", at(0.99))?;
        write!(f, "{:.1} | {cpu:.2}", longest / median)
    }
}

/// One round: every caller calls until it is over, and ends the call that it is in.
fn run(blocks: &[GemmaMlp], x: &Tensor, callers: usize, alone: bool) -> Result<Calls> {
    let ready = Barrier::new(callers + 1);
    std::thread::scope(|scope| {
        let call = || -> Result<Vec<f64>> {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
            let _pool = alone.then(|| pool.build()).transpose()?;
            let forward = || blocks.iter().try_fold(x.clone(), |x, block| block.forward(&x));
            forward()?;
            ready.wait();
            let (start, mut waits) = (Instant::now(), vec![]);
            while start.elapsed() < ROUND {
                let start = Instant::now();
                forward()?;
                waits.push(start.elapsed().as_secs_f64() * 1e3);
            }
            Ok(waits)
        };
        let threads: Vec<_> = (0..callers).map(|_| scope.spawn(call)).collect();
        ready.wait();
        let (start, cpu) = (Instant::now(), ProcessTime::now());
        let mut calls = Calls::default();
        for thread in threads {
            calls.waits.extend(thread.join().map_err(|_| anyhow::anyhow!("a caller panicked"))??);
        }
        calls.wall = start.elapsed();
        calls.cpu = cpu.elapsed();
        Ok(calls)
    })
}
