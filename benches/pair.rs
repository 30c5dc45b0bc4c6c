//! Both forms of GELU at once beside each alone, packed, in turns, so that what the machine gives
//! from one second to the next is the same for all three.
//!
//! `cargo bench --bench pair` prints medians in ms; weights that fit the caches stay in them.

use anyhow::Result;
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::Linear;
use gemma_mlp::{Gelu, GemmaMlp};
use std::time::{Duration, Instant};

const TOKENS: usize = 128;
const ENOUGH: Duration = Duration::from_secs(5);

fn main() -> Result<()> {
    println!("| block, {TOKENS} tokens | tanh | exact | both | both / tanh |");
    println!("|---|---|---|---|---|");
    for (hidden, intermediate) in [(640, 2048), (2048, 16384)] {
        for dtype in [DType::F32, DType::BF16] {
            let [tanh, exact, both] = rayon::scope(|_| times(hidden, intermediate, dtype))?;
            let ratio = both / tanh;
            let name = format!("{hidden}x{intermediate} {}", dtype.as_str());
            println!("| {name} | {tanh:.2} | {exact:.2} | {both:.2} | {ratio:.2} |");
        }
    }
    Ok(())
}

/// Medians in milliseconds: tanh, exact, both.
fn times(hidden: usize, intermediate: usize, dtype: DType) -> Result<[f64; 3]> {
    let random = |rows: usize, columns: usize, stdev: f32| -> Result<Tensor> {
        Ok(Tensor::randn(0f32, stdev, (rows, columns), &Device::Cpu)?.to_dtype(dtype)?)
    };
    let layer = |rows: usize, columns: usize| -> Result<Linear> {
        Ok(Linear::new(random(rows, columns, (columns as f32).powf(-0.5))?, None))
    };
    let (gate, up) = (layer(intermediate, hidden)?, layer(intermediate, hidden)?);
    let tanh = GemmaMlp::new(gate, up, layer(hidden, intermediate)?, Gelu::Tanh)?.packed()?;
    let exact = tanh.with_activation(Gelu::Exact);
    let x = random(TOKENS, hidden, 1.0)?;
    tanh.forward_pair(&x)?; // memory and tables
    let (start, mut times) = (Instant::now(), [vec![], vec![], vec![]]);
    while start.elapsed() < ENOUGH {
        let mut last = Instant::now();
        let mut lap = |times: &mut Vec<f64>| {
            times.push(last.elapsed().as_secs_f64() * 1e3);
            last = Instant::now();
        };
        tanh.forward(&x)?;
        lap(&mut times[0]);
        exact.forward(&x)?;
        lap(&mut times[1]);
        tanh.forward_pair(&x)?;
        lap(&mut times[2]);
    }
    Ok(times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }))
}
