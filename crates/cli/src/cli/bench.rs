//! `gemma-mlp bench`.

use super::args::open;
use super::output::Outputs;
use super::progress::Progress;
use crate::bench::{BenchOptions, Shape, Weights, run as bench};
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
    /// Measure blocks of this checkpoint's sizes: a directory, or a repository on the Hugging Face
    /// Hub
    #[arg(long, value_name = "DIR|ID", visible_alias = "model-id")]
    model: Option<PathBuf>,
    /// Branch, tag or commit of the repository [default: main]
    #[arg(long, requires = "model")]
    revision: Option<String>,
    /// How many tokens go through the block at once
    #[arg(long, value_delimiter = ',', default_values_t = BenchOptions::default().tokens)]
    tokens: Vec<NonZeroUsize>,
    /// Types of weights and input
    #[arg(long, value_delimiter = ',', default_values_t = Weights::ALL)]
    weights: Vec<Weights>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl Args {
    fn shapes(&self) -> Result<Vec<Shape>> {
        let Some(model) = &self.model else {
            let given = !self.shape.is_empty();
            return Ok(if given { self.shape.clone() } else { Shape::GEMMAS.to_vec() });
        };
        let checkpoint = open(model, self.revision.as_deref())?;
        let blocks = checkpoint.blocks().iter();
        let shapes = blocks.map(|block| Shape::new(block.hidden_size, block.intermediate_size));
        Ok(shapes.collect::<Result<_, _>>().map_err(Error::from)?)
    }
}

pub fn run(args: &Args) -> Result<()> {
    let shapes = args.shapes()?;
    let options = BenchOptions { tokens: args.tokens.clone(), weights: args.weights.clone() };
    let progress = Progress::new(0, "rows");
    let bench = bench(&shapes, &options, |done, total| progress.set_of(done, total))?;
    drop(progress);
    let mut outputs = Outputs::default();
    outputs.print(args.json, &bench, || report::bench_table(&bench))?;
    outputs.end()
}
