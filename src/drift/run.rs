//! The drift of a model on texts: window by window, sums first, figures from the sums.

use super::head;
use super::layers::{LayerSums, Places, compare_blocks};
use super::lockstep::Lockstep;
use super::logits::LogitSums;
use super::options::{DriftOptions, Progress, Shard};
use super::result::{Drift, Header};
use super::side::{Side, Sides, distinct};
use super::sums::WindowSums;
use super::window::Window;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::{Head, TokenIds, gaussian_input, load_mlp};
use candle_core::{Device, Tensor};
use std::ops::ControlFlow;

/// Measures the drift between two sides on texts.
///
/// Where the whole model runs here, every layer is compared on one input (that of the first side's
/// own pass over the text) and in the accumulated residual stream, and the logits of all positions
/// are. Otherwise the blocks alone are compared, each on [`gaussian_input`].
///
/// # Errors
/// A layer that does not exist, an id out of the vocabulary, a tensor that does not fit.
pub fn drift(
    checkpoint: &Checkpoint,
    texts: &[Vec<u32>],
    options: &DriftOptions,
    device: &Device,
    mut progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Drift> {
    let config = checkpoint.config();
    let windows = options.windowing.cut(texts, config.bos_token_id)?;
    if windows.is_empty() {
        return Err(Error::Input("there are no tokens; pass a text".into()));
    }
    for text in texts.iter().filter(|text| !text.is_empty()) {
        TokenIds::single(text.clone())?.check(config.stacks[0].vocab_size)?;
    }
    if !(0..windows.len()).any(|window| options.shard.takes(window)) {
        let (Shard { index, of }, count) = (options.shard, windows.len());
        return Err(Error::Input(format!(
            "part {index}/{of} is empty: the texts make {count} windows; take no more parts than that"
        )));
    }
    let runner = Runner::new(checkpoint, options, device)?;
    let chosen = || windows.iter().enumerate().filter(|(i, _)| options.shard.takes(*i));
    let of = chosen().map(|(_, window)| window.ids.len()).sum();
    let (mut sums, mut done) = (vec![], 0.0);
    for (index, window) in chosen() {
        let length = window.ids.len() as f64;
        let mut stop = false;
        sums.push(runner.window(index, window, |fraction| {
            stop |= progress(Progress { tokens: done + fraction * length, of }).is_break();
        })?);
        done += length;
        if stop {
            break;
        }
    }
    let header = Header::new(checkpoint, options, device, texts.len(), windows.len())?;
    Ok(Drift::new(header, options.shard, sums))
}

/// Compares windows, either in whole models or block by block.
enum Runner<'a> {
    Model {
        lockstep: Lockstep,
        places: Places,
        golden: (usize, usize),
        heads: Vec<Option<Head>>,
        options: &'a DriftOptions,
        device: &'a Device,
    },
    Blocks {
        checkpoint: &'a Checkpoint,
        options: &'a DriftOptions,
        device: &'a Device,
    },
}

impl<'a> Runner<'a> {
    fn new(
        checkpoint: &'a Checkpoint,
        options: &'a DriftOptions,
        device: &'a Device,
    ) -> Result<Self> {
        for &layer in &options.layers {
            checkpoint.block(layer)?;
        }
        if checkpoint.attention().is_err() {
            return Ok(Self::Blocks { checkpoint, options, device });
        }
        let (pair, floor) = (options.sides, options.floor_sides);
        let (sides, [a, b, floor_a, floor_b]) = distinct([pair.a, pair.b, floor.a, floor.b]);
        let places = Places { drift: (a, b), floor: (floor_a, floor_b) };
        let lockstep = Lockstep::load(checkpoint, &sides, device)?;
        let heads = (0..sides.len()).map(|side| lockstep.model(side).head().cloned()).collect();
        let golden = (places.floor.0, places.drift.1);
        Ok(Self::Model { lockstep, places, golden, heads, options, device })
    }

    fn window(
        &self,
        index: usize,
        window: &Window,
        mut progress: impl FnMut(f64),
    ) -> Result<WindowSums> {
        let ids = TokenIds::single(window.ids.clone())?;
        let positions = window.scored.len();
        match self {
            Self::Blocks { checkpoint, options, device } => {
                let mut layers = vec![];
                for &layer in &options.layers {
                    layers.push(block_sums(checkpoint, layer, &ids, options, device)?);
                    progress(layers.len() as f64 / options.layers.len() as f64);
                }
                Ok(WindowSums { index, positions, layers, logits: None })
            }
            Self::Model { lockstep, places, golden, heads, options, device } => {
                let mut layers = vec![];
                let count = lockstep.layers() as f64;
                let in_pair = |side| side == places.drift.0 || side == places.drift.1;
                let length = |side| match in_pair(side) {
                    true => ids.seq_len(),
                    false => options.floor_tokens,
                };
                let lengths: Vec<_> = (0..heads.len()).map(length).collect();
                let hidden = lockstep.run(&ids.tensor(device)?, &lengths, |layer, lanes| {
                    if options.layers.contains(&layer) {
                        let scored = &window.scored;
                        layers.push(LayerSums::of_step(lockstep, layer, lanes, *places, scored)?);
                    }
                    progress(0.5 * (layer + 1) as f64 / count);
                    Ok(())
                })?;
                let mut sides = vec![];
                for (head, hidden) in heads.iter().zip(&hidden) {
                    let end = window.scored.end.min(hidden.dim(1)?);
                    let start = window.scored.start.min(end);
                    let scored = hidden.get(0)?.narrow(0, start, end - start)?;
                    sides.extend(head.as_ref().map(|head| (head, scored)));
                }
                let pairs = [places.drift, places.floor, *golden];
                let logits = match sides.is_empty() {
                    true => None,
                    false => {
                        Some(compare_heads(&sides, &pairs, window, |f| progress(0.5 + 0.5 * f))?)
                    }
                };
                Ok(WindowSums { index, positions, layers, logits })
            }
        }
    }
}

/// The three pairs' logits; pairs that are one and the same are compared once.
fn compare_heads(
    sides: &[(&Head, Tensor)],
    pairs: &[(usize, usize); 3],
    window: &Window,
    progress: impl FnMut(f64),
) -> Result<[LogitSums; 3]> {
    let labels: Vec<_> = window.labels().collect();
    let mut distinct: Vec<(usize, usize)> = vec![];
    for &pair in pairs {
        if !distinct.contains(&pair) {
            distinct.push(pair);
        }
    }
    let sums = head::compare(sides, &distinct, &labels, progress)?;
    let of = |pair| distinct.iter().position(|&p| p == pair).map(|at| sums[at].clone());
    Ok(pairs.map(|pair| of(pair).unwrap_or_default()))
}

/// A block alone, on noise that both sides can represent.
fn block_sums(
    checkpoint: &Checkpoint,
    layer: usize,
    ids: &TokenIds,
    options: &DriftOptions,
    device: &Device,
) -> Result<LayerSums> {
    let block = checkpoint.block(layer)?;
    let input = gaussian_input(checkpoint, block, ids, device)?;
    let compare = |Sides { a, b }: Sides| {
        let x = input.to_dtype(a.dtype)?.to_dtype(b.dtype)?;
        let side = |side: Side| {
            let mlp = load_mlp(checkpoint, block, side.dtype, device)?;
            Ok::<_, Error>(mlp.with_activation(side.activation).with_rounding(side.rounding))
        };
        compare_blocks(&side(a)?, &side(b)?, [&x.to_dtype(a.dtype)?, &x])
    };
    Ok(LayerSums {
        drift: compare(options.sides)?,
        floor: compare(options.floor_sides)?,
        ..LayerSums::default()
    })
}
