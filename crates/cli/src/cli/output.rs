//! What a run leaves, printed and in files: each is tried, whatever becomes of the others.

use super::failure::message;
use super::interrupt::Interrupted;
use super::save;
use crate::report::{self, Paint, Run};
use anyhow::{Result, bail};
use gemma_mlp_drift::compare::Comparison;
use serde::Serialize;
use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Whether what is printed is coloured: on a terminal that can, unless `NO_COLOR` is set
/// (<https://no-color.org>).
pub fn paint() -> Paint {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    let colour = io::stdout().is_terminal() && !set("NO_COLOR") && !dumb;
    if colour { Paint::Ansi } else { Paint::Plain }
}

/// Where results go.
#[derive(Default)]
pub struct Outputs {
    /// The run was ended early, and so what it leaves replaces no file.
    interrupted: bool,
    /// Which files were not replaced, and what was written instead.
    kept: Vec<String>,
    failed: Vec<String>,
}

impl Outputs {
    /// Of a run that may have been ended early.
    pub fn of(interrupted: bool) -> Self {
        Self { interrupted, ..Self::default() }
    }

    /// Prints a result: as JSON, or else as a table, in which no name of a file or tensor steers the terminal.
    pub fn print(
        &mut self,
        json: bool,
        result: &impl Serialize,
        table: impl FnOnce() -> String,
    ) -> Result<()> {
        let text = match json {
            true => report::json(result)?,
            false => report::for_terminal(&table(), paint()),
        };
        self.print_exactly(&text);
        Ok(())
    }

    /// Prints a text of our own as it is.
    pub fn print_exactly(&mut self, text: &str) {
        let mut stdout = io::stdout().lock();
        let printed = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        self.note("standard output", printed.map_err(Into::into));
    }

    /// Writes a file that was asked for.
    pub fn save(
        &mut self,
        path: Option<&PathBuf>,
        content: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) {
        let Some(path) = path else { return };
        // What is empty, or no file, has nothing to lose.
        let old = fs::metadata(path).is_ok_and(|old| old.is_file() && old.len() > 0);
        if !(self.interrupted && old) {
            return self.note(path, save::save(path, content));
        }
        let part = part_of(path);
        let written = save::save(&part, content);
        if written.is_ok() {
            self.kept.push(format!(
                "{} is as it was, and this part of a run is {}",
                path.display(),
                part.display()
            ));
        }
        self.note(part, written);
    }

    fn note(&mut self, what: impl AsRef<Path>, done: Result<()>) {
        if let Err(error) = done {
            let what = what.as_ref().display();
            self.failed.push(format!("cannot write {what}: {}", message(&error)));
        }
    }

    /// # Errors
    /// Every output that failed; that the run was ended early.
    pub fn end(self) -> Result<()> {
        match (self.failed.is_empty(), self.interrupted) {
            (true, false) => Ok(()),
            (true, true) => Err(Interrupted::with(self.kept).into()),
            (false, _) => bail!([self.failed, self.kept].concat().join("; ")),
        }
    }
}

/// A new file's name, such as `run.partial.json` or `run.partial2.json`.
fn part_of(path: &Path) -> PathBuf {
    let name = |number: usize| {
        let mut name = OsString::from(path.file_stem().unwrap_or_default());
        name.push(".partial");
        if number > 1 {
            name.push(number.to_string());
        }
        if let Some(extension) = path.extension() {
            name.push(".");
            name.push(extension);
        }
        path.with_file_name(name)
    };
    (1..).map(name).find(|path| path.symlink_metadata().is_err()).unwrap_or_else(|| name(1))
}

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
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.html.iter().chain(&self.csv).map(PathBuf::as_path)
    }

    /// Prints a table, or one run's JSON, and writes the files that were asked for.
    pub fn drift(&self, outputs: &mut Outputs, runs: &[Run], json: bool) -> Result<()> {
        match runs {
            [Run { drift, .. }] => {
                outputs.print(json, drift, || report::drift_table(drift, paint()))?;
            }
            runs => outputs.print(false, &(), || report::side_by_side_table(runs))?,
        }
        outputs
            .save(self.html.as_ref(), |to| Ok(to.write_all(report::drift_page(runs).as_bytes())?));
        outputs
            .save(self.csv.as_ref(), |to| Ok(to.write_all(report::drift_csv(runs)?.as_bytes())?));
        Ok(())
    }

    /// As [`Self::drift`], of a comparison.
    pub fn comparison(
        &self,
        outputs: &mut Outputs,
        comparison: &Comparison,
        json: bool,
    ) -> Result<()> {
        outputs.print(json, comparison, || report::compare_table(comparison, paint()))?;
        outputs.save(self.html.as_ref(), |to| {
            Ok(to.write_all(report::compare_page(comparison).as_bytes())?)
        });
        outputs.save(self.csv.as_ref(), |to| {
            Ok(to.write_all(report::compare_csv(comparison)?.as_bytes())?)
        });
        Ok(())
    }
}
