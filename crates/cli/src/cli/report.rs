//! `gemma-mlp report`.

use super::clash::{check_inputs, check_outputs};
use super::input::read;
use super::output::{OutputArgs, Outputs};
use crate::report::{self, Run};
use anyhow::Result;
use gemma_mlp::Error;
use gemma_mlp_drift::drift::Drift;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Args {
    /// JSON reports, as `drift --json` prints and `drift --out` writes them; several are put side by
    /// side
    #[arg(required = true, value_name = "FILE")]
    reports: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
    /// Also write every plot as an SVG picture into a directory
    #[arg(long, value_name = "DIR")]
    figures: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<()> {
    let mut files: Vec<&Path> = args.output.files().collect();
    check_outputs(&files)?;
    check_inputs(&files, args.reports.iter().cloned())?;
    let mut drifts = vec![];
    for path in &args.reports {
        drifts.push(Drift::from_json(&path.display().to_string(), &read(path)?)?);
    }
    let names = names(&args.reports);
    let runs: Vec<_> = names.iter().zip(&drifts).map(|(name, drift)| Run { name, drift }).collect();
    let figures = match &args.figures {
        Some(directory) => figures(directory, &runs)?,
        None => vec![],
    };
    files.extend(figures.iter().map(|(path, _)| path.as_path()));
    check_outputs(&files)?;
    check_inputs(&files, args.reports.iter().cloned())?;
    let mut outputs = Outputs::default();
    args.output.drift(&mut outputs, &runs, false)?;
    for (path, svg) in &figures {
        outputs.save(Some(path), |to| Ok(to.write_all(svg.as_bytes())?));
    }
    outputs.end()
}

/// Every plot, with the file in a directory that it goes to.
fn figures(directory: &Path, runs: &[Run]) -> Result<Vec<(PathBuf, String)>> {
    let failed = |source| Error::Io { path: directory.into(), source };
    std::fs::create_dir_all(directory).map_err(failed)?;
    let figures = report::drift_figures(runs).into_iter();
    Ok(figures.map(|(name, svg)| (directory.join(name).with_extension("svg"), svg)).collect())
}

/// The files' names without directory and ending, or their whole paths where that leaves two alike.
fn names(paths: &[PathBuf]) -> Vec<String> {
    let whole = |path: &PathBuf| path.display().to_string();
    let short = |path: &PathBuf| {
        path.file_stem().map_or_else(|| whole(path), |stem| Path::new(stem).display().to_string())
    };
    let names: Vec<_> = paths.iter().map(short).collect();
    let alike = names.iter().enumerate().any(|(i, name)| names[..i].contains(name));
    if alike { paths.iter().map(whole).collect() } else { names }
}
