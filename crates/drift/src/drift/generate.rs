//! Greedy continuations of a prompt under two sides.

use super::lockstep::{Caches, Lockstep};
use super::result::CheckpointSummary;
use super::side::{Side, Sides};
use crate::error::{Error, Result};
use crate::input::{Texts, TokenIds, source_remark, text_remarks, without_texts};
use candle_core::{DType, Device, Tensor};
use gemma_mlp::Checkpoint;
use gemma_mlp::checkpoint::{Prefix, Remark, RemarkKind};
use serde::Serialize;
use std::ops::ControlFlow;

/// Two continuations of one prompt, under two sides.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Generation {
    /// Version of this layout.
    pub schema: u32,
    /// What was run.
    pub checkpoint: CheckpointSummary,
    /// The sides.
    pub sides: Sides,
    /// The prompt's token ids, which the encoder reads where there is one.
    pub prompt: Vec<u32>,
    /// The continuation under side a.
    pub a: Continuation,
    /// The continuation under side b.
    pub b: Continuation,
    /// Where they part; `None` if they never do.
    pub parting: Option<Parting>,
    /// What is not used, was guessed, or is odd.
    pub remarks: Vec<Remark>,
}

/// How a side continues the prompt.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Continuation {
    /// Token ids, with the end-of-text token if there is one.
    pub ids: Vec<u32>,
    /// The ids' text; `None` without a tokenizer.
    pub text: Option<String>,
    /// How far each token's logit was above the second largest.
    pub margins: Vec<f64>,
    /// Whether it ended at an end-of-text token.
    pub ended: bool,
}

/// The first token where two continuations differ.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Parting {
    /// Which of the generated tokens, from 0 on.
    pub index: usize,
    /// a's token and b's.
    pub ids: [u32; 2],
    /// The two tokens' texts; `None` without a tokenizer.
    pub texts: [Option<String>; 2],
    /// How far each was above the second largest logit of its side.
    pub margins: [f64; 2],
}

/// Continues a prompt by at most `length` tokens, always with the likeliest, under both sides in
/// lockstep; where there is an encoder, it reads the prompt, and the decoder begins with BOS. Of equal logits the lower
/// id wins. A side ends at an end-of-text token.
///
/// `progress` is called after each token with how many there are; returning
/// [`ControlFlow::Break`] ends the run with what there is.
///
/// # Errors
/// A family whose whole model does not run here, an encoder without a head or a bidirectional model, a prompt with ids out
/// of the vocabulary.
pub fn generate(
    checkpoint: &Checkpoint,
    prompt: &[u32],
    sides: Sides,
    length: usize,
    device: &Device,
    progress: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<Generation> {
    let encoder = checkpoint.config().encoder();
    let lockstep = load(checkpoint, &[sides.a, sides.b], device)?;
    let continued = continuations(checkpoint, &lockstep, prompt, length, device, progress)?;
    let mut continuations = <[Continuation; 2]>::try_from(continued).unwrap_or_default();
    for side in &mut continuations {
        side.text = checkpoint.decode(&side.ids).ok();
    }
    let [a, b] = continuations;
    let at_once = prompt.len() + a.ids.len().max(b.ids.len());
    let mut remarks = checkpoint.remarks().to_vec();
    match encoder {
        None => remarks.extend(text_remarks(checkpoint, [prompt].into_iter(), at_once)),
        Some(_) => {
            let text = "the encoder reads the prompt; the decoder begins with BOS alone";
            remarks.push(Remark::note(RemarkKind::Chosen, text));
            remarks.extend(source_remark(checkpoint, &prompt.to_vec().into()));
        }
    }
    remarks.extend(without_texts(checkpoint, prompt));
    remarks.extend(lockstep.remarks().iter().cloned());
    Ok(Generation {
        schema: 2,
        checkpoint: CheckpointSummary::new(checkpoint),
        sides,
        prompt: prompt.to_vec(),
        parting: parting(checkpoint, &a, &b),
        a,
        b,
        remarks,
    })
}

/// What a decoder reads beside each of some sources where nothing else is asked for: BOS, and what a side's model goes on
/// with, at most `length` tokens, as in [`generate`].
///
/// # Errors
/// Those of [`generate`]; a model without an encoder.
pub fn continued_targets(
    checkpoint: &Checkpoint,
    sources: &Texts,
    side: Side,
    length: usize,
    device: &Device,
) -> Result<Texts> {
    let config = checkpoint.config();
    if config.encoder().is_none() {
        return Err(Error::NoEncoder { family: config.family });
    }
    let lockstep = load(checkpoint, &[side], device)?;
    let target = |source: &[u32]| -> Result<Vec<u32>> {
        let go_on = |_| ControlFlow::Continue(());
        let continued = continuations(checkpoint, &lockstep, source, length, device, go_on)?;
        let ids = continued.into_iter().flat_map(|side| side.ids);
        Ok(std::iter::once(config.bos_token_id).chain(ids).collect())
    };
    sources.iter().map(target).collect()
}

fn load(checkpoint: &Checkpoint, sides: &[Side], device: &Device) -> Result<Lockstep> {
    let causal = checkpoint.attention()?.causal;
    let lockstep = Lockstep::load(checkpoint, sides, device)?;
    match lockstep.model(0).head() {
        Some(_) if !causal => Err(Error::NotCausal),
        Some(_) => Ok(lockstep),
        None => Err(Error::NoHead { lacks: "generates no text" }),
    }
}

/// How each side of a lockstep continues a prompt.
fn continuations(
    checkpoint: &Checkpoint,
    lockstep: &Lockstep,
    prompt: &[u32],
    length: usize,
    device: &Device,
    mut progress: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<Continuation>> {
    let (config, mut caches) = (checkpoint.config(), Caches::default());
    let prompt_ids = TokenIds::single(prompt.to_vec())?;
    prompt_ids.check(config.encoder().unwrap_or(config.decoder()).vocab_size)?;
    if let Some(Prefix::Tokens(prefix)) = checkpoint.attention()?.prefix
        && prefix > prompt.len()
    {
        return Err(Error::Prefix { prompt: prompt.len(), prefix });
    }
    let begins = match config.encoder() {
        Some(_) => {
            lockstep.begin(&prompt_ids.tensor(device)?, &mut caches)?;
            vec![config.bos_token_id]
        }
        None => prompt.to_vec(),
    };
    let mut ids = vec![begins; lockstep.sides()];
    let mut continuations = vec![Continuation::default(); lockstep.sides()];
    for step in 0..length {
        let logits = lockstep.next(&ids, &mut caches)?;
        for ((side, logits), ids) in continuations.iter_mut().zip(&logits).zip(&mut ids) {
            let (id, margin) = likeliest(logits)?;
            *ids = vec![id];
            if !side.ended {
                side.ids.push(id);
                side.margins.push(margin);
                side.ended = config.eos_token_ids.contains(&id);
            }
        }
        if progress(step + 1).is_break() || continuations.iter().all(|side| side.ended) {
            break;
        }
    }
    Ok(continuations)
}

fn parting(checkpoint: &Checkpoint, a: &Continuation, b: &Continuation) -> Option<Parting> {
    let index = a.ids.iter().zip(&b.ids).position(|(a, b)| a != b)?;
    let ids = [a.ids[index], b.ids[index]];
    Some(Parting {
        index,
        ids,
        texts: ids.map(|id| checkpoint.decode(&[id]).ok()),
        margins: [a.margins[index], b.margins[index]],
    })
}

/// The largest logit's id, the lowest of equals, and how far it is above the second largest.
fn likeliest(logits: &Tensor) -> Result<(u32, f64)> {
    let logits = logits.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    let (mut best, mut second) = (0, f64::NEG_INFINITY);
    for (id, &logit) in logits.iter().enumerate().skip(1) {
        if logit > logits[best] {
            (second, best) = (logits[best], id);
        } else if logit > second {
            second = logit;
        }
    }
    Ok((best as u32, logits[best] - second))
}
