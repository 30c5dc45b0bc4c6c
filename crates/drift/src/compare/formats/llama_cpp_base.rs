//! The file of llama.cpp's `perplexity --kl-divergence-base`: log-probabilities of the second half of
//! each chunk of a text, 16 bits each.
//!
//! `_logits_`, the chunk's length, the size of the vocabulary, the number of chunks, the ids of all
//! chunks, all in i32. Then for each position a scale and a least log-probability in f32, and a u16 for
//! each token: the log-probability is the scale times that, plus the least. Rows have an even number
//! of u16. Positions run from the half of a chunk up to the last but one.

use super::Format;
use super::recording::InvalidRecording;
use crate::compare::dump::{Dump, DumpText, Likeliest, Word};
use crate::error::Result;
use gemma_mlp::checkpoint::{Remark, RemarkKind};
use std::cmp::Reverse;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

pub(super) const LLAMA_CPP_BASE: Format = Format {
    name: NAME,
    recognises: |beginning| recognises(&beginning.bytes),
    read: |path, _| read(path),
};
const NAME: &str = "llama.cpp's --kl-divergence-base";

const MAGIC: &[u8] = b"_logits_";
/// How many tokens of a position are kept. What is 16 nats below the likeliest is cut off in the file,
/// so that the rest of it sums up to nothing useful.
const KEPT: usize = 64;
/// Gemma's BOS.
const BOS: u32 = 2;

fn recognises(beginning: &[u8]) -> bool {
    beginning.starts_with(MAGIC)
}

fn read(path: &Path) -> Result<Dump> {
    read_base(path).map_err(|error| error.of(path))
}

struct Header {
    chunk: usize,
    vocab: usize,
    chunks: usize,
}

impl Header {
    fn read(reader: &mut impl Read, actual: u64) -> Result<Self, InvalidRecording> {
        let mut magic = [0; MAGIC.len()];
        reader.read_exact(&mut magic)?;
        let mut size = || -> Result<usize, InvalidRecording> {
            let size = i32::from_le_bytes(array(reader)?);
            usize::try_from(size).ok().filter(|size| *size > 0).ok_or_else(|| {
                InvalidRecording::Invalid(format!("its header has {size} for a size"))
            })
        };
        let header = Self { chunk: size()?, vocab: size()?, chunks: size()? };
        match header.bytes() {
            Some(expected) if expected == actual => Ok(header),
            expected => {
                let expected = expected.unwrap_or(u64::MAX);
                Err(InvalidRecording::size(expected, actual))
            }
        }
    }

    /// The positions of a chunk that there are rows of.
    fn positions(&self) -> std::ops::Range<usize> {
        self.chunk / 2..self.chunk - 1
    }

    fn row(&self) -> usize {
        2 * (4 + self.vocab.next_multiple_of(2))
    }

    /// How long the file is.
    fn bytes(&self) -> Option<u64> {
        let rows = self.row().checked_mul(self.positions().len())?;
        let chunk = self.chunk.checked_mul(4)?.checked_add(rows)?;
        let all = self.chunks.checked_mul(chunk)?.checked_add(MAGIC.len() + 12)?;
        Some(all as u64)
    }
}

fn array<const N: usize>(reader: &mut impl Read) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn read_base(path: &Path) -> Result<Dump, InvalidRecording> {
    let file = File::open(path)?;
    let actual = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let header = Header::read(&mut reader, actual)?;
    let mut texts = vec![];
    for _ in 0..header.chunks {
        let ids = (0..header.chunk).map(|_| {
            let id = i32::from_le_bytes(array(&mut reader)?);
            let known = u32::try_from(id).ok().filter(|id| (*id as usize) < header.vocab);
            known.ok_or_else(|| {
                InvalidRecording::Invalid(format!("{id} is no token of {}", header.vocab))
            })
        });
        let tokens = Some(ids.collect::<Result<Vec<u32>, _>>()?);
        texts.push(DumpText { tokens, ..DumpText::default() });
    }
    let remarks = remarks(&mut texts);
    let mut row = vec![0; header.row()];
    for text in &mut texts {
        let Some(tokens) = &text.tokens else { continue };
        for position in header.positions() {
            reader.read_exact(&mut row)?;
            let tokens = log_probabilities(&row[..2 * (4 + header.vocab)], tokens[position + 1])?;
            text.likeliest.push(Likeliest { position, tokens });
        }
    }
    let metadata = [("framework".into(), "llama.cpp".into())].into();
    Ok(Dump { source: path.display().to_string(), format: NAME, metadata, texts, remarks })
}

/// The first token of every chunk is replaced by BOS before the model reads it, and is written as it was.
fn remarks(texts: &mut [DumpText]) -> Vec<Remark> {
    let mut remarks = vec![Remark::note(
        RemarkKind::Unused,
        format!(
            "the file has log-probabilities in steps of up to 0.00025 nats, and none that are 16 nats \
             below the likeliest; the {KEPT} likeliest of each position and the token that follows are used"
        ),
    )];
    let bos = texts.first().and_then(|text| text.tokens.as_ref()?.first()) == Some(&BOS);
    let first = texts.iter_mut().skip(1).filter_map(|text| text.tokens.as_mut()?.first_mut());
    if bos && first.map(|first| *first = BOS).count() > 0 {
        let text =
            "llama.cpp reads BOS (token 2) in place of the first token of every chunk; so do we";
        remarks.push(Remark::note(RemarkKind::Text, text));
    }
    remarks
}

fn log_probabilities(row: &[u8], next: u32) -> Result<Vec<(Word, f64)>, InvalidRecording> {
    let (numbers, _) = row.as_chunks::<2>();
    let f32_at = |at: usize| f32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
    let (scale, least) = (f64::from(f32_at(0)), f64::from(f32_at(4)));
    let steps = numbers[4..].iter().map(|step| u16::from_le_bytes(*step));
    let mut all: Vec<(u16, u32)> = steps.zip(0..).filter(|(step, _)| *step > 0).collect();
    let kept = KEPT.min(all.len());
    let of_next = all.iter().find(|(_, id)| *id == next).copied();
    if kept < all.len() {
        all.select_nth_unstable_by_key(kept, |&(step, id)| (Reverse(step), id));
        all.truncate(kept);
    }
    all.extend(of_next.filter(|next| !all.contains(next)));
    all.sort_unstable_by_key(|&(step, id)| (Reverse(step), id));
    let tokens: Vec<_> =
        all.iter().map(|&(step, id)| (Word::Id(id), scale * f64::from(step) + least)).collect();
    let largest = tokens.first().map_or(least, |(_, largest)| *largest);
    if !(scale >= 0.0 && least.is_finite() && largest < 0.01) {
        return Err(InvalidRecording::Invalid(format!(
            "a scale of {scale} from {least} on makes no log-probabilities"
        )));
    }
    Ok(tokens)
}
