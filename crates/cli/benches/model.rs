//! The whole model of a checkpoint: ours in f32 and bf16 beside candle-transformers' Gemma 3 in f32
//! and what this machine allows at best, interleaved in one run.
//!
//! `cargo bench --bench model [-- DIRECTORY | FILE.gguf] [--json]` prints tokens a second of a prompt (bound by
//! arithmetic) and of generation (bound by reading weights); scripts/bench_model.py puts PyTorch's
//! beside them. Limits count weights as read from memory: a model that fits the caches passes them.

use anyhow::{Context, Result};
use candle_core::quantized::gguf_file;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{gemma3, quantized_gemma3};
use gemma_mlp::checkpoint::{AttentionConfig, Stack};
use gemma_mlp::model::Cache;
use gemma_mlp::{Checkpoint, Gemma};
use gemma_mlp_cli::bench::{Limits, Sampler, Weights};
use gemma_mlp_cli::report;
use serde::Serialize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Tokens of the prompt, of which the last one's logits are computed.
const PROMPT: usize = 512;

/// Tokens that are generated one by one, and those of the prompt before them.
const GENERATED: usize = 32;
const BEFORE: usize = 16;

/// How often ours and candle's go through the prompt, and how often all generate.
const ROUNDS: usize = 5;
const ROUNDS_OF_CANDLE: usize = 3;
const GOES: usize = 3;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    let directory = arguments.iter().find(|argument| !argument.starts_with('-'));
    let embedded = || Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/tiny-gemma3");
    // On a thread that computes, as the tool runs: waking it for every loop would be measured too.
    let bench = rayon::scope(|_| bench(directory.map_or_else(embedded, PathBuf::from)))?;
    print!("{}", if json { report::json(&bench)? } else { table(&bench) });
    Ok(())
}

/// The result, as `--json` prints it.
#[derive(Serialize)]
struct Bench {
    directory: PathBuf,
    limits: Limits,
    /// Numbers in all matrices that a token is multiplied by, the head's once.
    weights: usize,
    prompt: Work,
    generation: Work,
    rows: Vec<Row>,
    /// What is missing, and why.
    notes: Vec<String>,
}

/// Tokens that go through the model, and the operations that they take.
#[derive(Clone, Copy, Serialize)]
struct Work {
    tokens: usize,
    operations: f64,
    /// How often all weights are read.
    passes: usize,
}

/// One side's figures.
#[derive(Serialize)]
struct Row {
    side: &'static str,
    dtype: Weights,
    /// Seconds to open and load it when the system has the file in memory.
    load_s: f64,
    prompt: Figures,
    generation: Figures,
}

/// One side's speed at some work.
#[derive(Serialize)]
struct Figures {
    tokens_per_s: f64,
    /// The most tokens a second that the machine's limits allow.
    limit: f64,
    of_limit: f64,
    /// How many times as fast ours is in the same dtype.
    ratio: f64,
}

fn bench(directory: PathBuf) -> Result<Bench> {
    let checkpoint = Checkpoint::open(&directory)?;
    let size = Size { stack: &checkpoint.config().stacks[0], attention: checkpoint.attention()? };
    let (mut sides, notes) = sides(&directory, &checkpoint)?;
    let limits = measure(&mut sides)?;
    let mut bench = Bench {
        directory,
        limits,
        weights: size.weights(),
        prompt: size.prompt(),
        generation: size.generation(),
        rows: vec![],
        notes,
    };
    bench.rows = sides.iter().map(|side| bench.row(side, &sides)).collect();
    Ok(bench)
}

/// What takes part, and a note on what does not.
fn sides(directory: &Path, checkpoint: &Checkpoint) -> Result<(Vec<Side>, Vec<String>)> {
    let (mut sides, mut notes) = (vec![], vec![]);
    for dtype in Weights::FLOATS {
        let size = size(checkpoint, dtype.dtype());
        sides.push(Side::load("ours", dtype, size, || Ours::load(directory, dtype))?);
    }
    let candle = match directory.is_dir() {
        true => Side::load("candle", Weights::F32, 4.0, || Candle::load(directory)),
        false => {
            let size = size(checkpoint, DType::F32);
            Side::load("candle", Weights::F32, size, || CandleGguf::load(directory))
        }
    };
    match candle {
        Ok(side) => sides.push(side),
        Err(e) => notes.push(format!("candle-transformers does not run it as Gemma 3: {e:#}")),
    }
    Ok((sides, notes))
}

/// Bytes that a weight takes on average, of those that are multiplied by: ours holds them as they are stored, unless that is
/// wider than what the model runs in.
fn size(checkpoint: &Checkpoint, dtype: DType) -> f64 {
    let matrices = || checkpoint.tensors().entries().filter(|(_, shape, _)| shape.len() == 2);
    let bytes = matrices().map(|(_, shape, storage)| {
        let bits = match storage.kept() {
            Some(_) => storage.bits(),
            None => storage.bits().min(8.0 * dtype.size_in_bytes() as f64),
        };
        shape.iter().product::<usize>() as f64 * bits / 8.0
    });
    let count: usize = matrices().map(|(_, shape, _)| shape.iter().product::<usize>()).sum();
    bytes.sum::<f64>() / count.max(1) as f64
}

/// All sides and the machine's limits in turns.
fn measure(sides: &mut [Side]) -> Result<Limits> {
    let mut sampler = Sampler::default();
    for round in 0..ROUNDS {
        for side in &mut *sides {
            sampler.sample();
            if side.name == "ours" || round < ROUNDS_OF_CANDLE {
                let seconds = side.prompt()?;
                side.prompt.push(seconds);
            }
        }
    }
    for _ in 0..GOES {
        for side in &mut *sides {
            sampler.sample();
            let seconds = side.generation()?;
            side.generation.push(seconds);
        }
    }
    Ok(sampler.limits())
}

impl Bench {
    fn row(&self, side: &Side, sides: &[Side]) -> Row {
        let ours = sides.iter().find(|ours| ours.dtype == side.dtype).unwrap_or(side);
        let figures = |work: Work, times: fn(&Side) -> &[f64]| {
            let bytes = (work.passes * self.weights) as f64 * side.size;
            let limit = self.limits.milliseconds(side.dtype, bytes, work.operations) / 1e3;
            let [ours, seconds] = [ours, side].map(|side| median(times(side)));
            Figures {
                tokens_per_s: work.tokens as f64 / seconds,
                limit: work.tokens as f64 / limit,
                of_limit: limit / seconds,
                ratio: seconds / ours,
            }
        };
        Row {
            side: side.name,
            dtype: side.dtype,
            load_s: side.load_s,
            prompt: figures(self.prompt, |side| &side.prompt),
            generation: figures(self.generation, |side| &side.generation),
        }
    }
}

/// The sizes of a model.
struct Size<'a> {
    stack: &'a Stack,
    attention: &'a AttentionConfig,
}

impl Size<'_> {
    fn prompt(&self) -> Work {
        Work { tokens: PROMPT, operations: self.operations(0..PROMPT), passes: 1 }
    }

    fn generation(&self) -> Work {
        let tokens = BEFORE..BEFORE + GENERATED;
        let operations = tokens.map(|at| self.operations(at..at + 1)).sum();
        Work { tokens: GENERATED, operations, passes: GENERATED }
    }

    fn weights(&self) -> usize {
        self.layers() + self.head()
    }

    /// Numbers in the matrices of all layers.
    fn layers(&self) -> usize {
        let AttentionConfig { num_attention_heads, layers, .. } = self.attention;
        let widths = layers.iter().zip(&self.stack.feed_forward).map(|(layer, block)| {
            // Queries and output, keys and values.
            let heads = 2 * (num_attention_heads + layer.num_key_value_heads);
            heads * layer.head_dim + 3 * block.intermediate_size
        });
        self.stack.hidden_size * widths.sum::<usize>()
    }

    fn head(&self) -> usize {
        self.stack.vocab_size * self.stack.hidden_size
    }

    /// A multiplication and an addition for every weight and position, the head's for the last one
    /// alone, and for every query's products with the keys and the values that it sees.
    fn operations(&self, positions: Range<usize>) -> f64 {
        let products = positions.len() * self.layers() + self.head();
        let AttentionConfig { num_attention_heads, layers, .. } = self.attention;
        let keys = layers.iter().flat_map(|layer| {
            let window = layer.sliding_window.unwrap_or(usize::MAX);
            positions.clone().map(move |at| layer.head_dim * window.min(at + 1))
        });
        2.0 * (products + 2 * num_attention_heads * keys.sum::<usize>()) as f64
    }
}

/// A model with a cache.
trait Model {
    /// Logits of the last of some ids, `[1, seq]`, that follow those since it was cleared.
    fn next(&mut self, ids: &Tensor) -> candle_core::Result<Tensor>;

    /// Forgets all ids.
    fn clear(&mut self);
}

/// A model and its times.
struct Side {
    name: &'static str,
    dtype: Weights,
    /// Bytes in which it holds a weight.
    size: f64,
    load_s: f64,
    model: Box<dyn Model>,
    /// Seconds.
    prompt: Vec<f64>,
    generation: Vec<f64>,
}

impl Side {
    /// Loads it twice, the second time from a file that the system has in memory, and runs it once,
    /// which brings allocations and threads up.
    fn load<M: Model + 'static>(
        name: &'static str,
        dtype: Weights,
        size: f64,
        load: impl Fn() -> Result<M>,
    ) -> Result<Self> {
        drop(load()?);
        let start = Instant::now();
        let model = Box::new(load()?);
        let load_s = start.elapsed().as_secs_f64();
        let (prompt, generation) = (vec![], vec![]);
        let mut side = Self { name, dtype, size, load_s, model, prompt, generation };
        side.prompt()?;
        Ok(side)
    }

    /// Seconds for the prompt.
    fn prompt(&mut self) -> Result<f64> {
        self.model.clear();
        let ids = ids(PROMPT)?;
        let start = Instant::now();
        self.model.next(&ids)?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Seconds for the tokens behind a short prompt, each the likeliest after those before it.
    fn generation(&mut self) -> Result<f64> {
        self.model.clear();
        let mut id = likeliest(&self.model.next(&ids(BEFORE)?)?)?;
        let start = Instant::now();
        for _ in 0..GENERATED {
            id = likeliest(&self.model.next(&id)?)?;
        }
        Ok(start.elapsed().as_secs_f64())
    }
}

/// A prompt, `[1, seq]`.
fn ids(seq: usize) -> candle_core::Result<Tensor> {
    let ids = (0..seq as u32).map(|i| 4 + i * 37 % 900).collect();
    Tensor::from_vec(ids, (1, seq), &Device::Cpu)
}

/// Of one position's logits the id with the largest, `[1, 1]`.
fn likeliest(logits: &Tensor) -> candle_core::Result<Tensor> {
    logits.flatten_all()?.argmax(0)?.reshape((1, 1))
}

struct Ours {
    gemma: Gemma,
    cache: Cache,
}

impl Ours {
    fn load(directory: &Path, dtype: Weights) -> Result<Self> {
        let checkpoint = Checkpoint::open(directory)?;
        let gemma = Gemma::load(&checkpoint, &Device::Cpu, dtype.dtype())?;
        Ok(Self { gemma, cache: Cache::default() })
    }
}

impl Model for Ours {
    fn next(&mut self, ids: &Tensor) -> candle_core::Result<Tensor> {
        self.gemma.forward_cached(ids, &mut self.cache)
    }

    fn clear(&mut self) {
        self.cache = Cache::default();
    }
}

struct Candle {
    model: gemma3::Model,
    seen: usize,
}

impl Candle {
    fn load(directory: &Path) -> Result<Self> {
        let config = std::fs::read_to_string(directory.join("config.json"))?;
        let config: gemma3::Config = serde_json::from_str(&config).context("config.json")?;
        let files = safetensors(directory)?;
        // SAFETY: the maps are only ever read, and nothing writes into a checkpoint in place.
        let vb = unsafe { VarBuilder::from_mmaped_safetensors(&files, DType::F32, &Device::Cpu) }?;
        Ok(Self { model: gemma3::Model::new(false, &config, vb)?, seen: 0 })
    }
}

impl Model for Candle {
    fn next(&mut self, ids: &Tensor) -> candle_core::Result<Tensor> {
        let logits = self.model.forward(ids, self.seen)?;
        self.seen += ids.dim(1)?;
        Ok(logits)
    }

    fn clear(&mut self) {
        self.model.clear_kv_cache();
        self.seen = 0;
    }
}

/// candle's model of a GGUF file, whose weights stay quantised, and whose inputs are rounded to 8 bits.
struct CandleGguf {
    model: quantized_gemma3::ModelWeights,
    seen: usize,
}

impl CandleGguf {
    fn load(path: &Path) -> Result<Self> {
        let mut file = std::fs::File::open(path)?;
        let content = gguf_file::Content::read(&mut file)?;
        let model = quantized_gemma3::ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
        Ok(Self { model, seen: 0 })
    }
}

impl Model for CandleGguf {
    fn next(&mut self, ids: &Tensor) -> candle_core::Result<Tensor> {
        let logits = self.model.forward(ids, self.seen)?;
        self.seen += ids.dim(1)?;
        Ok(logits)
    }

    fn clear(&mut self) {
        // A position of 0 starts anew.
        self.seen = 0;
    }
}

/// The weights in a directory: one file or shards.
fn safetensors(directory: &Path) -> Result<Vec<PathBuf>> {
    let paths = std::fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path()));
    let is = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "safetensors");
    Ok(paths.collect::<std::io::Result<Vec<_>>>()?.into_iter().filter(is).collect())
}

fn median(times: &[f64]) -> f64 {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn table(bench: &Bench) -> String {
    let mut text = format!("{}\n{}", bench.directory.display(), report::limits_line(&bench.limits));
    text += &format!(
        "A prompt of {PROMPT} tokens, logits of the last; {GENERATED} tokens one by one after {BEFORE}.\n\n"
    );
    text += "| | load, s | prompt, tok/s | limit | of limit | ours / | generation, tok/s | limit | of limit | ours / |\n";
    text += &format!("{}|\n", "|---".repeat(10));
    for row in &bench.rows {
        let [prompt, generation] = [&row.prompt, &row.generation].map(cells);
        text += &format!(
            "| {} {} | {:.2} | {prompt} | {generation} |\n",
            row.side, row.dtype, row.load_s
        );
    }
    text.extend(bench.notes.iter().map(|note| format!("\n{note}\n")));
    text
}

fn cells(figures: &Figures) -> String {
    let Figures { tokens_per_s, limit, of_limit, ratio } = figures;
    format!("{tokens_per_s:.1} | {limit:.1} | {:.0} % | {ratio:.2}", 100.0 * of_limit)
}
