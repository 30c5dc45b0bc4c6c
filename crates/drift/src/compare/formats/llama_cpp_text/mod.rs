//! The log of llama.cpp's `llama-eval-callback` and `llama-debug`: of each tensor a few numbers with
//! four decimals, and the sum.

mod lines;
mod names;
mod printed;
mod tokens;

use super::Format;
use super::recording::InvalidRecording;
use crate::compare::dump::{Dump, DumpText};
use crate::compare::plane::Glimpse;
use crate::compare::point::Point;
use crate::error::Result;
use gemma_mlp::checkpoint::{Remark, RemarkKind};
use lines::each_line;
use printed::{Printed, is_printed};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use tokens::Tokens;

pub(super) const LLAMA_CPP_TEXT: Format = Format {
    name: NAME,
    recognises: |beginning| recognises(&beginning.bytes),
    read: |path, _| read(path),
};
const NAME: &str = "llama.cpp's log of tensors";

/// What logs of these programs begin with, before the first tensor.
const BEGINNINGS: [&str; 8] = [
    "llama_model_loader:",
    "llama_model_load",
    "llama_context:",
    "ggml_cuda_init:",
    "build: ",
    "load_backend:",
    "system_info: n_threads",
    "llama threadpool init",
];

fn recognises(beginning: &[u8]) -> bool {
    let text = String::from_utf8_lossy(beginning);
    is_printed(&text) || BEGINNINGS.iter().any(|beginning| text.contains(beginning))
}

fn read(path: &Path) -> Result<Dump> {
    let file = File::open(path).map_err(|error| InvalidRecording::from(error).of(path))?;
    let dump = parse(BufReader::new(file)).map_err(|error| error.of(path))?;
    Ok(Dump { source: path.display().to_string(), ..dump })
}

/// What one run of the graph printed.
#[derive(Default)]
struct Batch {
    /// Which of them, from 0 on.
    index: usize,
    /// The first tensor's name and operation: when they come again, so does the graph.
    first: Option<(String, String)>,
    /// The last of each point.
    tensors: BTreeMap<Point, Printed>,
    /// How many tensors are of no point.
    others: usize,
}

impl Batch {
    fn positions(&self) -> usize {
        let shapes = self.tensors.iter().filter_map(|(point, tensor)| names::shape(*point, tensor));
        shapes.map(|shape| shape[0]).max().unwrap_or(0)
    }

    fn is_first(&self, tensor: &Printed) -> bool {
        let first = self.first.as_ref();
        first.is_some_and(|(name, op)| *name == tensor.name && *op == tensor.op)
    }

    fn push(&mut self, tensor: Printed) {
        self.first.get_or_insert_with(|| (tensor.name.clone(), tensor.op.clone()));
        match names::point(&tensor) {
            Some(point) => {
                self.tensors.insert(point, tensor);
            }
            None => self.others += 1,
        }
    }
}

/// All runs, of which the longest is kept: others warm up, or decode a token at a time.
#[derive(Default)]
struct Batches {
    longest: Batch,
    current: Batch,
}

impl Batches {
    fn push(&mut self, tensor: Printed) {
        if self.current.is_first(&tensor) {
            self.end();
        }
        self.current.push(tensor);
    }

    fn end(&mut self) {
        let next = Batch { index: self.current.index + 1, ..Batch::default() };
        let batch = std::mem::replace(&mut self.current, next);
        if batch.positions() > self.longest.positions() {
            self.longest = batch;
        }
    }
}

fn parse(log: impl BufRead) -> Result<Dump, InvalidRecording> {
    let (mut batches, mut tokens) = (Batches::default(), Tokens::default());
    let mut metadata = BTreeMap::from([("framework".to_string(), "llama.cpp".to_string())]);
    let mut current: Option<Printed> = None;
    let mut seen = false;
    each_line(log, |line| {
        if is_printed(line) {
            seen = true;
            current.take().into_iter().for_each(|tensor| batches.push(tensor));
            current = Printed::header(line);
        } else if let Some(tensor) = &mut current {
            tensor.take(line);
            if tensor.is_over() {
                current.take().into_iter().for_each(|tensor| batches.push(tensor));
            }
        } else if !tokens.take(line)
            && let Some((_, build)) = line.split_once("build: ")
        {
            metadata.entry("framework_version".into()).or_insert_with(|| build.trim().into());
        }
        Ok(())
    })?;
    current.into_iter().for_each(|tensor| batches.push(tensor));
    batches.end();
    let count = batches.current.index;
    let batch = batches.longest;
    if batch.tensors.is_empty() {
        return Err(InvalidRecording::Invalid(match seen {
            true => "it has tensors, and none that a Gemma has by the names of llama.cpp".into(),
            false => {
                "a log of llama.cpp without tensors; run llama-eval-callback, or llama-debug with \
                      --verbose"
                    .into()
            }
        }));
    }
    let (text, remarks) = text(&batch, count, tokens.ids());
    Ok(Dump { source: String::new(), format: NAME, metadata, texts: vec![text], remarks })
}

fn text(batch: &Batch, batches: usize, ids: Option<Vec<u32>>) -> (DumpText, Vec<Remark>) {
    let positions = batch.positions();
    let mut text = DumpText::default();
    let mut remarks = vec![];
    if batches > 1 {
        remarks.push(Remark::note(
            RemarkKind::Chosen,
            format!(
                "the log has {batches} runs of the graph; run {}, the first of the longest, is used: \
                 {positions} positions",
                batch.index + 1
            ),
        ));
    }
    match ids {
        Some(mut ids) if ids.len() >= positions => {
            if ids.len() > positions {
                remarks.push(Remark::note(
                    RemarkKind::Chosen,
                    format!(
                        "the prompt has {} tokens and was run in parts; its first {positions} are compared",
                        ids.len()
                    ),
                ));
            }
            ids.truncate(positions);
            text.tokens = Some(ids);
        }
        Some(ids) => remarks.push(Remark::warning(
            RemarkKind::Text,
            format!(
                "the log names {} token ids, but ran {positions}; they are not used",
                ids.len()
            ),
        )),
        None => remarks.push(Remark::warning(
            RemarkKind::Text,
            "the log does not name the token ids that were run; llama-eval-callback prints them on standard \
             error (2>&1), llama-debug behind the tensors",
        )),
    }
    let (mut cut, mut odd) = (vec![], vec![]);
    for (&point, tensor) in &batch.tensors {
        match (names::shape(point, tensor), tensor.numbers()) {
            (Some(shape), Some(numbers)) => {
                let last = point == Point::Logits && shape[0] == 1;
                if shape[0] != positions && !last {
                    cut.push(point);
                    continue;
                }
                if last {
                    text.logit_positions = Some(vec![positions - 1]);
                }
                let printed::Numbers { values, sum, precision } = numbers;
                text.glimpses.insert(point, Glimpse { shape, values, sum, precision });
            }
            _ => odd.push(point),
        }
    }
    if !cut.is_empty() {
        let cut = Points(&cut);
        let reason = "llama.cpp computes only the rows of the last layer that it is asked for";
        remarks.push(Remark::note(RemarkKind::Unused, format!("left out: {cut}; {reason}")));
    }
    if !odd.is_empty() {
        let odd = Points(&odd);
        remarks.push(Remark::warning(
            RemarkKind::Unused,
            format!("left out: {odd}; the log has another count of numbers than their shapes"),
        ));
    }
    if batch.others > 0 {
        let text = format!("{} tensors of the log are of no point that is compared", batch.others);
        remarks.push(Remark::note(RemarkKind::Unused, text));
    }
    (text, remarks)
}

/// The first few by name.
struct Points<'a>(&'a [Point]);

impl fmt::Display for Points<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        let first: Vec<_> = self.0.iter().take(SHOWN).map(Point::to_string).collect();
        f.write_str(&first.join(", "))?;
        match self.0.len().checked_sub(SHOWN) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, " and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests;
