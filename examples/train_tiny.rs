//! Trains `weights/tiny-gemma3`, the checkpoint inside the binary: a small Gemma 3 that has learnt
//! to write a made-up English, by this crate's own backward pass.
//!
//! `cargo run --release --example train_tiny [-- DIRECTORY [STEPS]]`
//!
//! The text comes from a seeded grammar and the tokenizer is trained on it. Then one model is
//! trained twice, from the same weights on the same batches: under tanh and under exact. The
//! tanh-trained one is written, since Gemma was trained so, with a README that says what either of
//! the two loses under either activation. `config.json` is given.

#[path = "train_tiny/readme.rs"]
mod readme;
#[path = "train_tiny/text.rs"]
mod text;

use anyhow::{Context, Error, Result, ensure};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::loss::cross_entropy;
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder, VarMap};
use gemma_mlp::checkpoint::Config;
use gemma_mlp::model::Observer;
use gemma_mlp::{Gelu, Gemma};
use rand_distr::{Distribution, StandardNormal};
use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::path::{Path, PathBuf};
use std::time::Instant;
use text::{Rows, SEQ, Seed};
use tokenizers::Tokenizer;

const CONFIG: &str = include_str!("../weights/tiny-gemma3/config.json");
const STEPS: usize = 800;
const PEAK_RATE: f64 = 3e-3;
/// The largest norm of a gradient.
const CLIP: f64 = 1.0;

/// The mean loss of the next token, in nats.
fn loss(gemma: &Gemma, batch: &Tensor, observer: &mut impl Observer) -> Result<Tensor> {
    let hidden = gemma.hidden(&batch.narrow(1, 0, SEQ)?, observer)?;
    let logits = gemma.logits(&hidden)?.flatten_to(1)?; // [BATCH · SEQ, vocab]
    Ok(cross_entropy(&logits, &batch.narrow(1, 1, SEQ)?.flatten_all()?)?)
}

/// Gives every matrix random elements, and the norms 0, which is a factor of 1. By name, so that
/// the bytes do not depend on the order of a hash map.
fn initialize(vars: &BTreeMap<String, Var>) -> Result<()> {
    let mut rng = Seed::Weights.rng();
    for var in vars.values() {
        if let &[rows, columns] = var.dims() {
            let deviation = (columns as f64).powf(-0.5);
            let normal = StandardNormal.sample_iter(&mut rng).take(rows * columns);
            let values: Vec<f32> = normal.map(|x: f64| (deviation * x) as f32).collect();
            var.set(&Tensor::from_vec(values, var.shape(), &Device::Cpu)?)?;
        }
    }
    Ok(())
}

/// Linear warm-up over a twentieth of the steps, then half a cosine down to a twentieth of the peak.
fn learning_rate(step: usize, steps: usize) -> f64 {
    let (step, steps) = (step as f64 + 1.0, steps as f64);
    let cosine = 0.525 + 0.475 * (PI * step / steps).cos();
    PEAK_RATE * cosine * (20.0 * step / steps).min(1.0)
}

/// Scales the gradients down to a norm of [`CLIP`], and returns what it was.
fn clip(gradients: &mut GradStore, vars: &BTreeMap<String, Var>) -> Result<f64> {
    let mut square = 0.0;
    for var in vars.values() {
        let gradient = gradients.get(var).context("a weight without a gradient")?;
        square += f64::from(gradient.sqr()?.sum_all()?.to_scalar::<f32>()?);
    }
    let norm = square.sqrt();
    if norm > CLIP {
        for var in vars.values() {
            let gradient = gradients.remove(var).context("a weight without a gradient")?;
            gradients.insert(var, (gradient * (CLIP / norm))?);
        }
    }
    Ok(norm)
}

fn mean_of_last(n: usize, losses: &[f64]) -> f64 {
    let last = &losses[losses.len().saturating_sub(n)..];
    last.iter().sum::<f64>() / last.len() as f64
}

/// What a training leaves.
struct Trained {
    gelu: Gelu,
    /// In bf16, by name.
    tensors: BTreeMap<String, Tensor>,
    first_loss: f64,
    /// The mean over the last twentieth of the steps.
    last_loss: f64,
    minutes: f64,
}

fn train(gelu: Gelu, config: &Config, tokenizer: &Tokenizer, steps: usize) -> Result<Trained> {
    let start = Instant::now();
    let varmap = VarMap::new();
    let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
    let gemma = Gemma::new(config, DType::F32, vb)?.with_activation(gelu);
    let vars: BTreeMap<String, Var> =
        varmap.data().lock().expect("a lock").clone().into_iter().collect();
    initialize(&vars)?;
    let params = ParamsAdamW { beta2: 0.99, ..ParamsAdamW::default() };
    let mut adam = AdamW::new(vars.values().cloned().collect(), params)?;
    let mut rows = Rows::new(tokenizer, Seed::Training);
    let mut losses = vec![];
    let report = steps.div_ceil(20);
    for step in 0..steps {
        let loss = loss(&gemma, &rows.batch()?, &mut ())?;
        losses.push(f64::from(loss.to_scalar::<f32>()?));
        let mut gradients = loss.backward()?;
        let norm = clip(&mut gradients, &vars)?;
        ensure!(norm.is_finite(), "the gradient at step {step} is not finite");
        adam.set_learning_rate(learning_rate(step, steps));
        adam.step(&gradients)?;
        if (step + 1) % report == 0 {
            let (mean, seconds) = (mean_of_last(report, &losses), start.elapsed().as_secs());
            println!("{gelu:5}  step {:4}  loss {mean:.4}  norm {norm:.2}  {seconds} s", step + 1);
        }
    }
    let (first_loss, last_loss) = (losses[0], mean_of_last(report, &losses));
    ensure!(last_loss < first_loss, "{gelu}: nothing was learnt");
    let bf16 = |(name, var): (String, Var)| Ok((name, var.to_dtype(DType::BF16)?));
    let tensors = vars.into_iter().map(bf16).collect::<Result<_>>()?;
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    println!("{gelu:5}  loss {first_loss:.4} -> {last_loss:.4} in {minutes:.1} min");
    Ok(Trained { gelu, tensors, first_loss, last_loss, minutes })
}

/// Trains under both activations side by side: products this small keep one core busy, not two.
fn train_both(steps: usize, tokenizer: &Tokenizer, config: &Config) -> Result<Vec<Trained>> {
    std::thread::scope(|scope| {
        let threads = [Gelu::Tanh, Gelu::Exact]
            .map(|gelu| scope.spawn(move || train(gelu, config, tokenizer, steps)));
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    })
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().map_or("weights/tiny-gemma3".into(), PathBuf::from);
    let steps = args.next().map_or(Ok(STEPS), |steps| steps.parse())?;
    let config = Config::parse(CONFIG, Path::new("config.json"))?;
    let tokenizer = text::tokenizer(config.stacks[0].vocab_size).map_err(Error::msg)?;
    let trained = train_both(steps, &tokenizer, &config)?;
    let readme = readme::readme(steps, &tokenizer, &config, &trained)?;
    println!("\n{readme}");
    std::fs::create_dir_all(&dir)?;
    std::fs::write(dir.join("config.json"), CONFIG)?;
    std::fs::write(dir.join("README.md"), readme)?;
    let weights = safetensors::serialize(&trained[0].tensors, None)?;
    std::fs::write(dir.join("model.safetensors"), weights)?;
    let tokenizer = tokenizer.to_string(true).map_err(Error::msg)? + "\n";
    Ok(std::fs::write(dir.join("tokenizer.json"), tokenizer)?)
}
