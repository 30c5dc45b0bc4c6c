//! `gemma-mlp bench`.

use super::args::open;
use super::output::Outputs;
use super::progress::Progress;
use crate::bench::{BenchOptions, Experts, Shape, Weights, run as bench};
use crate::report;
use anyhow::Result;
use gemma_mlp::Error;
use std::num::NonZeroUsize;
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// Measure blocks of these sizes, hidden x intermediate
    /// [default: the blocks of Gemma 3 270M, Gemma 2 2B and Gemma 1 2B]
    #[arg(long, value_name = "SHAPE", num_args = 1.., conflicts_with = "model")]
    shape: Vec<Shape>,
    /// Measure mixtures of so many experts, each a block of the shape [default shape: that of Gemma 4
    /// 26B-A4B, 2816x704]
    #[arg(long, value_name = "COUNT", conflicts_with = "model")]
    experts: Option<NonZeroUsize>,
    /// How many experts a token goes through [default: 8]
    #[arg(long, value_name = "K", requires = "experts")]
    top: Option<NonZeroUsize>,
    /// Measure blocks of this checkpoint's sizes: a directory, a GGUF file, or a repository on the
    /// Hugging Face Hub
    #[arg(long, value_name = "DIR|FILE|ID", visible_alias = "model-id")]
    model: Option<PathBuf>,
    /// The GGUF file to take of the directory or repository
    #[arg(long, value_name = "NAME.gguf", requires = "model")]
    file: Option<String>,
    /// Branch, tag or commit of the repository [default: main]
    #[arg(long, requires = "model")]
    revision: Option<String>,
    /// How many tokens go through the block at once
    #[arg(long, value_delimiter = ',', default_values_t = BenchOptions::default().tokens)]
    tokens: Vec<NonZeroUsize>,
    /// Types of weights and input: f32, bf16, or quantised weights (q8_0, q6_k, q5_k, q4_k, q4_0) and an
    /// input in f32
    #[arg(long, value_delimiter = ',', default_values_t = Weights::FLOATS)]
    weights: Vec<Weights>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl Args {
    fn shapes(&self) -> Result<Vec<Shape>> {
        let Some(model) = &self.model else {
            return Ok(match self.experts {
                _ if !self.shape.is_empty() => self.shape.clone(),
                Some(_) => vec![Shape::EXPERT],
                None => Shape::GEMMAS.to_vec(),
            });
        };
        let checkpoint = open(model, self.file.as_deref(), self.revision.as_deref())?;
        let blocks = checkpoint.blocks().iter();
        let shapes = blocks.map(|block| Shape::new(block.hidden_size, block.intermediate_size));
        Ok(shapes.collect::<Result<_, _>>().map_err(Error::from)?)
    }

    fn options(&self) -> Result<BenchOptions> {
        let (tokens, weights) = (self.tokens.clone(), self.weights.clone());
        let experts = match (self.experts, self.top.or(NonZeroUsize::new(8))) {
            (Some(count), Some(top)) => Some(Experts::new(count, top).map_err(Error::from)?),
            _ => None,
        };
        Ok(BenchOptions { tokens, weights, experts })
    }
}

pub fn run(args: &Args) -> Result<()> {
    let shapes = args.shapes()?;
    let options = args.options()?;
    let progress = Progress::new(0, "rows");
    let bench = bench(&shapes, &options, |done, total| progress.set_of(done, total))?;
    drop(progress);
    let mut outputs = Outputs::default();
    outputs.print(args.json, &bench, || report::bench_table(&bench))?;
    outputs.end()
}
