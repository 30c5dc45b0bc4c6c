//! Porting differences by what they do to the logits of a text.

use super::difference::{Change, Difference};
use super::head;
use super::logits::LogitSums;
use super::metrics::nan_from_null;
use super::options::{DriftOptions, Progress};
use super::side::Side;
use super::stacks::Stacks;
use super::window::{Window, Windows};
use crate::error::{Error, Result};
use crate::input::Texts;
use candle_core::{DType, Device, Tensor};
use gemma_mlp::Checkpoint;
use gemma_mlp::checkpoint::{Config, LayerAttention, Mixture, Storage};
use gemma_mlp::model::{Head, Variation};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::ops::ControlFlow;

/// What one difference does.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Ranked {
    /// What is different.
    pub difference: Cow<'static, str>,
    /// Where it comes from, or who does it.
    pub source: Cow<'static, str>,
    /// Scored positions.
    pub tokens: usize,
    /// KL(reference‖difference) of a position in nats, on average.
    #[serde(deserialize_with = "nan_from_null")]
    pub kl_mean_nats: f64,
    /// KL of the worst position, in nats.
    #[serde(deserialize_with = "nan_from_null")]
    pub kl_max_nats: f64,
    /// The fraction of positions whose likeliest token is the same.
    #[serde(deserialize_with = "nan_from_null")]
    pub top1_agreement: f64,
    /// ‖b − a‖/‖a‖ over all logits.
    #[serde(deserialize_with = "nan_from_null")]
    pub rel_l2: f64,
    /// Perplexity with the difference.
    #[serde(deserialize_with = "nan_from_null")]
    pub ppl: f64,
}

/// Models of more parameters than this are not run in f64, which takes 8 bytes for each.
const F64_PARAMETERS: usize = 1 << 31;

/// Measures differences, all of [`DIFFERENCES`](super::DIFFERENCES) or some, one at a time against the options' side a,
/// and sorts them by mean KL divergence, largest first. Those that change nothing of the model on these texts are left out, and
/// so are quantised weights where they are quantised already.
///
/// # Errors
/// A family whose whole model does not run here, an encoder without a head.
pub fn rank(
    checkpoint: &Checkpoint,
    texts: &Texts,
    options: &DriftOptions,
    differences: impl IntoIterator<Item = &'static Difference>,
    device: &Device,
    mut progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Ranked>> {
    let side = options.sides.a;
    let reference = load(checkpoint, side, [].into_iter(), device)?;
    if reference.head().is_none() {
        return Err(Error::NoHead { lacks: "has no logits to rank by" });
    }
    let windows = options.windows(checkpoint, texts)?;
    // Models of other weights take memory, and run one after the other.
    let (of_weights, others): (Vec<_>, Vec<_>) =
        differences.into_iter().partition(|other| matches!(other.change, Change::Weights(_)));
    let batches: Vec<_> =
        [others].into_iter().chain(of_weights.into_iter().map(|d| vec![d])).collect();
    let of: usize = windows.iter().map(|window| window.ids.len()).sum();
    let (mut ranked, mut stop, mut done, count) = (vec![], false, 0.0, batches.len() as f64);
    for batch in batches {
        let mut applied = applying(checkpoint, side, &reference, batch, windows, device)?;
        for window in windows.iter() {
            let length = window.ids.len() as f64 / count;
            let mut go_on = |fraction| {
                stop |= progress(Progress { tokens: done + fraction * length, of }).is_break();
            };
            if !applied.is_empty() {
                compare(&reference, &mut applied, &window, &mut go_on)?;
            }
            done += length;
            if stop {
                break;
            }
        }
        ranked.extend(applied.iter().map(Applied::ranked));
        if stop {
            break;
        }
    }
    ranked.sort_by(|a, b| b.kl_mean_nats.total_cmp(&a.kl_mean_nats));
    Ok(ranked)
}

/// A difference that applies to a model.
struct Applied {
    difference: &'static Difference,
    /// `None` for the reference's model on another text.
    model: Option<Stacks>,
    sums: LogitSums,
}

fn applying(
    checkpoint: &Checkpoint,
    side: Side,
    reference: &Stacks,
    differences: impl IntoIterator<Item = &'static Difference>,
    windows: Windows,
    device: &Device,
) -> Result<Vec<Applied>> {
    let longest = windows.iter().map(|window| window.ids.len().max(window.source.len())).max();
    let longest = longest.unwrap_or(0);
    let config = checkpoint.config();
    let parameters: usize =
        checkpoint.tensors().entries().map(|(_, shape, _)| shape.iter().product::<usize>()).sum();
    let quantised = |(.., storage): (_, _, Storage)| storage.is_quantised();
    let is_quantised = side.weights.is_some() || checkpoint.tensors().entries().any(quantised);
    let mut applied = vec![];
    for difference in differences {
        let model = match difference.change {
            Change::Model(variations) if within_windows(variations, config, longest) => None,
            Change::Model(variations) => reference.varied(variations)?,
            Change::NoBos => None,
            Change::DType(dtype) if dtype == reference.dtype() => None,
            Change::DType(DType::F64) if parameters > F64_PARAMETERS => None,
            Change::DType(dtype) => {
                let side = Side { dtype, ..side };
                Some(load(checkpoint, side, [reference].into_iter(), device)?)
            }
            Change::Weights(_) if is_quantised => None,
            Change::Weights(mixture) if !quantises(checkpoint, mixture)? => None,
            Change::Weights(mixture) => {
                let side = Side { weights: Some(mixture), ..side };
                Some(load(checkpoint, side, [].into_iter(), device)?)
            }
        };
        let bos = |window: &Window| window.ids[0] == config.bos_token_id && window.ids.len() > 1;
        let no_bos =
            matches!(difference.change, Change::NoBos) && windows.iter().all(|window| bos(&window));
        if model.is_some() || no_bos {
            applied.push(Applied { difference, model, sums: LogitSums::default() });
        }
    }
    Ok(applied)
}

/// A side's model, with the weights of one that is there if their values are the same.
fn load<'a>(
    checkpoint: &Checkpoint,
    side: Side,
    known: impl Iterator<Item = &'a Stacks>,
    device: &Device,
) -> Result<Stacks> {
    let model = side.model();
    model.of(checkpoint, |checkpoint| {
        let stacks = Stacks::load_sharing(checkpoint, known, model.dtype, device)?;
        Ok(stacks.rounding_inputs(model, checkpoint)?.0.of_side(side))
    })
}

/// Whether a mixture turns any weight into blocks: rows of no whole ones are only rounded.
fn quantises(checkpoint: &Checkpoint, mixture: Mixture) -> Result<bool> {
    let quantised = checkpoint.quantised(mixture)?;
    let mut entries = quantised.tensors().entries();
    Ok(entries.any(|(.., storage)| storage.is_quantised()))
}

/// Whether variations change sliding windows alone, and no text is long enough to tell.
fn within_windows(variations: &[Variation], config: &Config, longest: usize) -> bool {
    let reaches = |layer: &LayerAttention| layer.sliding_window.is_some_and(|w| w < longest);
    let attentions = config.stacks.iter().filter_map(|stack| stack.attention.as_ref().ok());
    let reached = attentions.flat_map(|attention| &attention.layers).any(reaches);
    !reached && variations.iter().all(|variation| variation.is_of_windows())
}

/// Adds a window to every difference.
fn compare(
    reference: &Stacks,
    applied: &mut [Applied],
    window: &Window,
    mut progress: impl FnMut(f64),
) -> Result<()> {
    let ids = window.token_ids()?;
    let source = ids.source().map(|source| source.tensor(reference.device())).transpose()?;
    let ids = ids.tensor(reference.device())?;
    let passes = applied.len() as f64 + 1.0;
    let mut done = 0.0;
    let mut hidden = |model: &Stacks, ids: &Tensor| -> Result<Tensor> {
        let hidden = model.hidden(source.as_ref(), ids)?.get(0)?; // [seq, hidden]
        done += 0.5;
        progress(done / passes);
        Ok(hidden)
    };
    let scored = |hidden: &Tensor, from: usize, shift: usize| {
        hidden.narrow(0, from - shift, window.scored.end - from)
    };
    let own = hidden(reference, &ids)?;
    let (mut at, mut sides) =
        (vec![], vec![side(reference, scored(&own, window.scored.start, 0)?)]);
    let mut without_bos = None;
    for (i, Applied { model, .. }) in applied.iter().enumerate() {
        match model {
            Some(model) => {
                sides.push(side(model, scored(&hidden(model, &ids)?, window.scored.start, 0)?));
                at.push(i);
            }
            None => {
                let ids = ids.narrow(1, 1, ids.dim(1)? - 1)?;
                without_bos = Some((i, hidden(reference, &ids)?));
            }
        }
    }
    let labels: Vec<_> = window.labels().collect();
    let pairs: Vec<_> = (1..sides.len()).map(|side| (0, side)).collect();
    let text = head::Text { sides: borrowed(&sides), labels: labels.clone() };
    let sums = head::compare(&[text], &pairs, |f| progress(0.5 + 0.5 * f))?.swap_remove(0);
    let mut additions: Vec<(usize, LogitSums)> = at.into_iter().zip(sums).collect();
    if let Some((i, other)) = without_bos {
        // The first position has no counterpart.
        let from = window.scored.start.max(1);
        let sides = [(reference, scored(&own, from, 0)?), (reference, scored(&other, from, 1)?)];
        let sides = sides.map(|(model, hidden)| side(model, hidden));
        let labels = labels[from - window.scored.start..].to_vec();
        let text = head::Text { sides: borrowed(&sides), labels };
        let sums = head::compare(&[text], &[(0, 1)], |_| ())?.swap_remove(0);
        additions.extend(sums.into_iter().map(|sums| (i, sums)));
    }
    for (i, sums) in &mut additions {
        sums.forget_tokens();
        applied[*i].sums.merge(sums);
    }
    Ok(())
}

fn side(model: &Stacks, hidden: Tensor) -> (Option<Head>, Tensor) {
    (model.head().cloned(), hidden)
}

fn borrowed(sides: &[(Option<Head>, Tensor)]) -> Vec<(&Head, Tensor)> {
    sides.iter().filter_map(|(head, hidden)| Some((head.as_ref()?, hidden.clone()))).collect()
}

impl Applied {
    fn ranked(&self) -> Ranked {
        let metrics = self.sums.metrics();
        Ranked {
            difference: self.difference.name.into(),
            source: self.difference.source.into(),
            tokens: self.sums.kl_nats.len(),
            kl_mean_nats: metrics.kl_mean_nats,
            kl_max_nats: metrics.kl_max_nats,
            top1_agreement: metrics.top1_agreement,
            rel_l2: metrics.rel_l2,
            ppl: metrics.ppl_b,
        }
    }
}
