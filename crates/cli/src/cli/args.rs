//! The flags that subcommands share. Names follow candle's examples.

use super::memory::MemoryArgs;
use super::progress::Bytes;
use super::target::TargetArgs;
use super::text::{self, Input};
use anyhow::Result;
use candle_core::{DType, Device};
use clap::{Args, ValueEnum};
use gemma_mlp::checkpoint::{Hub, Prefix};
use gemma_mlp::{Checkpoint, device};
use gemma_mlp_drift::drift::{Model, Side, SideSpec, Sides};
use gemma_mlp_drift::input::Texts;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What `drift` and `forward` share.
#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    pub compute: ComputeArgs,
    /// Layers to report, as in 0,3-5 [default: all]
    #[arg(long)]
    layers: Option<Layers>,
}

impl RunArgs {
    /// The texts as token ids, with what is odd about them; where there is an encoder, beside the decoder's, which are a
    /// side's own continuation if nothing else is asked for.
    pub fn texts(&self, checkpoint: &Checkpoint, side: Side, device: &Device) -> Result<Input> {
        self.target.beside(self.text.texts(checkpoint)?, checkpoint, side, device)
    }

    /// The files that the texts are in.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.text.files().chain(self.target.files())
    }

    /// The chosen layers, each once, in order; all if none are chosen.
    pub fn layers(&self, checkpoint: &Checkpoint) -> Result<Vec<usize>> {
        match &self.layers {
            Some(layers) => layers.of_checkpoint(checkpoint),
            None => Ok((0..checkpoint.blocks().len()).collect()),
        }
    }
}

/// The two sides.
#[derive(Args)]
pub struct SideArgs {
    /// The reference side: an activation, optionally followed by where it is rounded (once,
    /// after-activation, every-op) or whose arithmetic to use (pytorch, transformers, jax, candle,
    /// candle-cuda, pytorch-cuda, vllm, liger, flashinfer, llama.cpp), by a dtype if not --dtype, and
    /// by what its weights are quantised to (q8_0, q6_k, q5_k_m, q5_k_s, q5_0, q4_k_m, q4_k_s, q4_0)
    /// and q8-activations, as in tanh:every-op:bf16, pytorch:exact or tanh:q4_k_m
    #[arg(long, value_name = "SIDE", default_value = "tanh")]
    a: SideSpec,
    /// The side that is compared with it
    #[arg(long, value_name = "SIDE", default_value = "exact")]
    b: SideSpec,
}

impl SideArgs {
    pub fn sides(&self, dtype: DType) -> Sides {
        Sides { a: self.a.side(dtype), b: self.b.side(dtype) }
    }
}

/// How to compute, and how to show it.
#[derive(Args)]
pub struct ComputeArgs {
    /// Data type to compute in
    #[arg(long, default_value = "f32")]
    dtype: DTypeArg,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,
}

impl ComputeArgs {
    pub fn dtype(&self) -> DType {
        self.dtype.into()
    }

    /// That of [`DeviceArgs::device`].
    pub fn device(&self) -> Device {
        self.device.device()
    }

    /// That of [`MemoryArgs::hold`].
    pub fn hold(
        &self,
        checkpoint: Checkpoint,
        models: &[Model],
        device: &Device,
    ) -> Result<Checkpoint> {
        self.device.hold(checkpoint, models, device)
    }
}

/// Where to compute.
#[derive(Args)]
pub struct DeviceArgs {
    /// Compute on the CPU even if there is a GPU (GPUs need a build with cuda or metal)
    #[arg(long)]
    cpu: bool,
    #[command(flatten)]
    memory: MemoryArgs,
}

impl DeviceArgs {
    /// That of [`MemoryArgs::hold`].
    pub fn hold(
        &self,
        checkpoint: Checkpoint,
        models: &[Model],
        device: &Device,
    ) -> Result<Checkpoint> {
        self.memory.hold(checkpoint, models, device)
    }

    /// The GPU if there is one, and standard error says which; or the CPU, and it says why.
    pub fn device(&self) -> Device {
        if self.cpu || !device::IS_POSSIBLE {
            return Device::Cpu;
        }
        // A library that is missing says so as a panic. One line is enough.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| ()));
        let gpu = device::gpu();
        std::panic::set_hook(hook);
        let (device, why) = match gpu {
            Ok(gpu) => (gpu, String::new()),
            Err(reason) => (Device::Cpu, format!("; no usable GPU: {reason}")),
        };
        let _ = writeln!(io::stderr(), "device: {}{why}", device::name(&device));
        device
    }
}

#[derive(Args)]
pub struct ModelArgs {
    /// Directory with config.json and safetensors weights, or a GGUF file, or a repository on the
    /// Hugging Face Hub, as in google/gemma-3-270m [default: the checkpoint inside the program,
    /// small and trained on generated text]
    #[arg(long, value_name = "DIR|FILE|ID", visible_alias = "model-id")]
    model: Option<PathBuf>,
    /// The GGUF file to take of the directory or repository, as in gemma-3-270m-Q8_0.gguf; of a
    /// split one, any part
    #[arg(long, value_name = "NAME.gguf", requires = "model")]
    file: Option<String>,
    /// Branch, tag or commit of the repository [default: main]
    #[arg(long, requires = "model")]
    revision: Option<String>,
    /// Of PaliGemma: how many tokens at a text's start are the prompt, which all see one another, or
    /// all; those behind them see earlier ones only [default: all]
    #[arg(long, value_name = "TOKENS", requires = "model")]
    prefix_tokens: Option<Prefix>,
}

impl ModelArgs {
    pub fn open(&self) -> Result<Checkpoint> {
        let Some(model) = &self.model else { return Ok(Checkpoint::embedded()?) };
        let checkpoint = open(model, self.file.as_deref(), self.revision.as_deref())?;
        match self.prefix_tokens {
            Some(prefix) => Ok(checkpoint.with_prefix(prefix)?),
            None => Ok(checkpoint),
        }
    }
}

/// The checkpoint in a directory, in a file or on the Hub.
pub fn open(model: &Path, file: Option<&str>, revision: Option<&str>) -> Result<Checkpoint> {
    let progress = Bytes::new();
    let show = |done, total| progress.set(done, total);
    Ok(Checkpoint::open_or_fetch(model, file, revision, &Hub::from_env(), show)?)
}

/// What is run if no text is given.
const TEXT: &str = "The quick brown fox jumps over the lazy dog. Every Friday, Mia and Leo sing in \
the garden. The small dog runs quickly when Mia sings. \"Where is the cup?\" asks Leo. \"It is in the \
kitchen,\" says Mia. Leo has three apples. Mia gives him two more. Now he has five apples. Mia \
counts the cups: one, two, three. There are three cups. In the end, she puts the cup in the garden.";

#[derive(Args)]
#[group(multiple = false)]
pub struct TextArgs {
    /// Text to run [default: a paragraph of simple English]
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Files with the texts to run, in UTF-8; one line break at the end is not part of a text
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub text: Vec<PathBuf>,
    /// File with a JSON array of token ids, or an array of such arrays
    #[arg(long, value_name = "FILE")]
    pub ids: Option<PathBuf>,
}

impl TextArgs {
    /// The texts as token ids, with what is odd about them.
    pub fn texts(&self, checkpoint: &Checkpoint) -> Result<Input> {
        if let Some(ids) = self.ids()? {
            return Ok(Input { ids, remarks: vec![] });
        }
        if !self.text.is_empty() {
            return text::of_files(checkpoint, &self.text);
        }
        text::of_prompt(checkpoint, self.prompt.as_deref().unwrap_or(TEXT))
    }

    /// The token ids, where they are given as such.
    pub fn ids(&self) -> Result<Option<Texts>> {
        self.ids.as_deref().map(text::ids_of).transpose()
    }

    /// The files that the texts are in.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.text.iter().chain(&self.ids).cloned()
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum DTypeArg {
    F64,
    F32,
    Bf16,
    F16,
}

impl From<DTypeArg> for DType {
    fn from(dtype: DTypeArg) -> Self {
        match dtype {
            DTypeArg::F64 => DType::F64,
            DTypeArg::F32 => DType::F32,
            DTypeArg::Bf16 => DType::BF16,
            DTypeArg::F16 => DType::F16,
        }
    }
}

/// Layer numbers and ranges, as in `0,3-5`.
#[derive(Clone)]
pub struct Layers(Vec<RangeInclusive<usize>>);

impl Layers {
    /// Those of a checkpoint, each once, in order.
    pub fn of_checkpoint(&self, checkpoint: &Checkpoint) -> Result<Vec<usize>> {
        for range in &self.0 {
            checkpoint.block(*range.end())?;
        }
        Ok(self.among(0..checkpoint.blocks().len()).collect())
    }

    /// Those among some layers.
    pub fn among(&self, layers: impl Iterator<Item = usize>) -> impl Iterator<Item = usize> {
        layers.filter(|i| self.0.iter().any(|range| range.contains(i)))
    }
}

impl FromStr for Layers {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let number = |s: &str| {
            s.trim()
                .parse::<usize>()
                .map_err(|_| format!("'{s}' is not a layer number; write 0,3-5"))
        };
        let range = |part: &str| match part.split_once('-') {
            None => number(part).map(|n| n..=n),
            Some((first, last)) => match (number(first)?, number(last)?) {
                (first, last) if first <= last => Ok(first..=last),
                _ => Err(format!("the range {part} is empty")),
            },
        };
        list.split(',').map(range).collect::<Result<_, _>>().map(Self)
    }
}
