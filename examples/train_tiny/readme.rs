//! What the checkpoint's README says, all of it measured.

use crate::text::{BATCH, EOS, PARAGRAPHS, Rows, SEQ, Seed, fill};
use crate::{CLIP, CONFIG, PEAK_RATE, Trained, loss};
use anyhow::{Error, Result, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use gemma_mlp::checkpoint::Config;
use gemma_mlp::model::{Block, Cache, Observer};
use gemma_mlp::{Gelu, Gemma};
use std::collections::{BTreeMap, HashMap};
use tokenizers::Tokenizer;

const TEMPLATE: &str = include_str!("README.md");
/// Batches that held-out losses are measured on, or fewer where there are fewer steps.
const HELD_OUT: usize = 32;

/// The model of trained tensors as it will be loaded, in f64, where differences of losses are no
/// rounding.
fn frozen(trained: &Trained, config: &Config) -> Result<Gemma> {
    let tensors: HashMap<_, _> = trained.tensors.clone().into_iter().collect();
    let vb = VarBuilder::from_tensors(tensors, DType::F64, &Device::Cpu);
    Ok(Gemma::new(config, DType::F64, vb)?)
}

/// Mean loss on held-out rows.
fn held_out(gemma: &Gemma, batches: &[Tensor], gates: &mut Gates) -> Result<f64> {
    let mut sum = 0.0;
    for batch in batches {
        sum += loss(gemma, batch, gates)?.to_scalar::<f64>()?;
    }
    let mean = sum / batches.len() as f64;
    ensure!(mean.is_finite(), "the held-out loss is not finite");
    Ok(mean)
}

/// Gate pre-activations, batch by batch: which layer's, their mean and that of their squares; and
/// the largest of all.
#[derive(Default)]
struct Gates {
    moments: Vec<(usize, f64, f64)>,
    max: f64,
}

impl Observer for Gates {
    fn block(&mut self, block: Block) -> candle_core::Result<()> {
        let gate = &block.projected.gate;
        let mean = |t: &Tensor| t.mean_all()?.to_scalar::<f64>();
        self.moments.push((block.index, mean(gate)?, mean(&gate.sqr()?)?));
        self.max = self.max.max(gate.abs()?.max_all()?.to_scalar()?);
        Ok(())
    }
}

impl Gates {
    fn deviation(&self, layer: usize) -> f64 {
        let of_layer = self.moments.iter().filter(|moments| moments.0 == layer);
        let (mut batches, mut mean, mut square) = (0.0, 0.0, 0.0);
        for moments in of_layer {
            (batches, mean, square) = (batches + 1.0, mean + moments.1, square + moments.2);
        }
        (square / batches - (mean / batches).powi(2)).sqrt()
    }
}

/// The loss, in nats, of a model that knows how often each token occurs and nothing else.
fn unigram_entropy(batches: &[Tensor]) -> Result<f64> {
    let mut counts: BTreeMap<u32, f64> = BTreeMap::new();
    for batch in batches {
        for id in batch.narrow(1, 1, SEQ)?.flatten_all()?.to_vec1::<u32>()? {
            *counts.entry(id).or_default() += 1.0;
        }
    }
    let total: f64 = counts.values().sum();
    Ok(counts.values().map(|n| -n / total * (n / total).ln()).sum())
}

/// A prompt and the likeliest tokens after it, up to the end of the paragraph.
fn continued(gemma: &Gemma, tokenizer: &Tokenizer, prompt: &str) -> Result<String> {
    let encoding = tokenizer.encode(prompt, true).map_err(Error::msg)?;
    let mut ids = encoding.get_ids().to_vec();
    let (mut cache, mut seen) = (Cache::default(), 0);
    while ids.len() < SEQ && ids.last() != Some(&EOS) {
        let new = Tensor::new(&ids[seen..], &Device::Cpu)?.unsqueeze(0)?;
        let logits = gemma.forward_cached(&new, &mut cache)?.flatten_all()?;
        seen = ids.len();
        ids.push(logits.argmax(0)?.to_scalar()?);
    }
    tokenizer.decode(&ids, true).map_err(Error::msg)
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find(|line| line.starts_with("model name"));
    let name = name.and_then(|line| line.split(": ").nth(1));
    name.unwrap_or(std::env::consts::ARCH).to_string()
}

/// What the weights' README says, all of it out of this run.
pub fn readme(
    steps: usize,
    tokenizer: &Tokenizer,
    config: &Config,
    trained: &[Trained],
) -> Result<String> {
    let mut rows = Rows::new(tokenizer, Seed::HeldOut);
    let batches: Vec<_> = (0..steps.min(HELD_OUT)).map(|_| rows.batch()).collect::<Result<_>>()?;
    let fields: BTreeMap<String, serde_json::Value> = serde_json::from_str(CONFIG)?;
    let mut facts: HashMap<_, _> =
        fields.into_iter().map(|(name, value)| (name, value.to_string())).collect();
    for model in trained {
        let gemma = frozen(model, config)?;
        let run = |gelu| held_out(&gemma.with_activation(gelu), &batches, &mut Gates::default());
        let (exact, tanh) = (run(Gelu::Exact)?, run(Gelu::Tanh)?);
        for (name, fact) in [
            ("first", format!("{:.4}", model.first_loss)),
            ("last", format!("{:.4}", model.last_loss)),
            ("exact", format!("{exact:.6}")),
            ("tanh", format!("{tanh:.6}")),
            ("difference", format!("{:+.2e}", exact - tanh)),
        ] {
            facts.insert(format!("{}.{name}", model.gelu), fact);
        }
    }
    let gemma = frozen(&trained[0], config)?;
    let mut gates = Gates::default();
    held_out(&gemma, &batches, &mut gates)?;
    let layers = config.stacks[0].num_hidden_layers;
    let gate: Vec<_> = (0..layers).map(|layer| gates.deviation(layer)).collect();
    let gates_by_layer: Vec<_> = gate.iter().map(|x| format!("{x:.2}")).collect();
    let parameters: usize = trained[0].tensors.values().map(Tensor::elem_count).sum();
    let minutes = trained.iter().map(|model| model.minutes).fold(0.0, f64::max);
    for (name, fact) in [
        ("parameters", parameters.to_string()),
        ("paragraphs", PARAGRAPHS.to_string()),
        ("steps", steps.to_string()),
        ("batch", BATCH.to_string()),
        ("seq", SEQ.to_string()),
        ("clip", CLIP.to_string()),
        ("rate", PEAK_RATE.to_string()),
        ("cores", std::thread::available_parallelism()?.to_string()),
        ("processor", processor()),
        ("minutes", format!("{minutes:.1}")),
        ("held_out", (batches.len() * BATCH * SEQ).to_string()),
        ("entropy", format!("{:.2}", unigram_entropy(&batches)?)),
        ("gate", format!("{:.2}", gate.iter().sum::<f64>() / layers as f64)),
        ("gates", gates_by_layer.join(", ")),
        ("gate_max", format!("{:.1}", gates.max)),
        ("pangram", continued(&gemma, tokenizer, "The quick brown fox")?),
        ("story", continued(&gemma, tokenizer, "Every Friday, Mia and Leo")?),
    ] {
        facts.insert(name.into(), fact);
    }
    Ok(fill(TEMPLATE, |name| facts[name].clone()))
}
