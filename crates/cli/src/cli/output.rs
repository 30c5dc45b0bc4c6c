//! Where drift runs go.

use super::{paint, print, write};
use crate::report::{self, Run};
use anyhow::Result;
use std::path::PathBuf;

/// Files beside what is printed.
#[derive(clap::Args)]
pub struct OutputArgs {
    /// Also write a page for a browser: one file, with plots and every number
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Also write every figure as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
}

impl OutputArgs {
    /// The files that were asked for.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.html.iter().chain(&self.csv)
    }

    /// Writes the files that were asked for, and prints a table, or one run's JSON.
    pub fn drift(&self, runs: &[Run], json: bool) -> Result<()> {
        if let Some(path) = &self.html {
            write(path, report::drift_page(runs).as_bytes())?;
        }
        if let Some(path) = &self.csv {
            write(path, report::drift_csv(runs)?.as_bytes())?;
        }
        print(&match runs {
            [Run { drift, .. }] if json => report::json(drift)?,
            [Run { drift, .. }] => report::drift_table(drift, paint()),
            runs => report::side_by_side_table(runs),
        })
    }
}
