//! Texts as token ids, and what is odd about them.

use super::input::read;
use anyhow::{Context, Result};
use gemma_mlp::checkpoint::{Checkpoint, Remark, RemarkKind};
use gemma_mlp_drift::input::{Texts, parse_ids};
use std::path::{Path, PathBuf};

/// Texts of a run.
pub struct Input {
    /// The token ids of each text.
    pub ids: Texts,
    /// About the tokenizer and the texts.
    pub remarks: Vec<Remark>,
}

/// A text that is passed as an argument.
pub fn of_prompt(checkpoint: &Checkpoint, prompt: &str) -> Result<Input> {
    let mut texts = Encoder::default();
    texts.add(checkpoint, prompt, vec![])?;
    texts.finish(checkpoint)
}

/// The texts in files.
pub fn of_files(checkpoint: &Checkpoint, paths: &[PathBuf]) -> Result<Input> {
    let mut texts = Encoder::default();
    for path in paths {
        let name = || path.display().to_string();
        let (text, remarks) = without_mark(read(path)?);
        texts.add(checkpoint, without_line_break(&text), remarks).with_context(name)?;
    }
    texts.finish(checkpoint)
}

/// The texts so far, with how many of them each remark is about.
#[derive(Default)]
struct Encoder {
    ids: Texts,
    remarks: Vec<(Remark, usize)>,
}

impl Encoder {
    fn add(&mut self, checkpoint: &Checkpoint, text: &str, mut remarks: Vec<Remark>) -> Result<()> {
        if text.contains('\r') {
            let note = "a text has carriage returns (\\r), as Windows ends lines (CRLF); they are part \
                        of the text and of its tokens";
            remarks.push(Remark::note(RemarkKind::Text, note));
        }
        let (ids, of_encoding) = checkpoint.encode_with_remarks(text)?;
        self.ids.push(&ids);
        for remark in remarks.into_iter().chain(of_encoding) {
            match self.remarks.iter_mut().find(|(other, _)| *other == remark) {
                Some((_, count)) => *count += 1,
                None => self.remarks.push((remark, 1)),
            }
        }
        Ok(())
    }

    fn finish(self, checkpoint: &Checkpoint) -> Result<Input> {
        let mut remarks = checkpoint.tokenizer_remarks()?;
        let all = self.ids.len();
        for (mut remark, count) in self.remarks {
            if all > 1 {
                remark.text += &format!(" ({count} of {all} texts)");
            }
            remarks.push(remark);
        }
        Ok(Input { ids: self.ids, remarks })
    }
}

/// One line break at the end ends the last line; it is not part of the text.
fn without_line_break(text: &str) -> &str {
    let Some(line) = text.strip_suffix('\n') else { return text };
    line.strip_suffix('\r').unwrap_or(line)
}

/// A text, without the byte order mark that some editors leave in front of it.
fn without_mark(mut text: String) -> (String, Vec<Remark>) {
    if !text.starts_with('\u{feff}') {
        return (text, vec![]);
    }
    text.remove(0);
    let note = "a text's file begins with a byte order mark; it is not part of the text";
    (text, vec![Remark::note(RemarkKind::Text, note)])
}

/// The token ids in a file.
pub fn ids_of(path: &Path) -> Result<Texts> {
    parse_ids(&read(path)?).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_is_no_part_of_a_text() {
        for (file, text) in [
            ("a", "a"),
            ("a\n", "a"),
            ("a\r\n", "a"),
            ("a\n\n", "a\n"),
            ("a\r\n\r\n", "a\r\n"),
            ("a\r", "a\r"),
            ("\n", ""),
            ("", ""),
        ] {
            assert_eq!(without_line_break(file), text, "{file:?}");
        }
    }
}
