//! The drift of a model on texts: window by window, sums first, figures from the sums.

use super::blocks::Blocks;
use super::logits::LogitSums;
use super::options::{DriftOptions, Progress, Shard};
use super::origin::Origin;
use super::positions::Notable;
use super::result::{Drift, Header, Part};
use super::sums::WindowSums;
use super::whole::{Whole, WholeSums};
use super::window::Window;
use crate::error::{Error, Result};
use crate::input::{Texts, both_read};
use candle_core::Device;
use gemma_mlp::Checkpoint;
use gemma_mlp::checkpoint::{Remark, RemarkKind};
use std::ops::ControlFlow;
use std::thread;

/// Measures the drift between two sides on texts.
///
/// Where the whole model runs here, every layer is compared on one input (that of the first side's
/// own pass over the text) and in the accumulated residual stream, and the logits of all positions
/// are. Otherwise the blocks alone are compared, each on [`crate::input::gaussian_input`].
///
/// # Errors
/// Texts, windows, layers or floor tokens of which there are none; a layer that does not exist, an id
/// out of the vocabulary, a tensor that does not fit.
pub fn drift(
    checkpoint: &Checkpoint,
    texts: &Texts,
    options: &DriftOptions,
    device: &Device,
    mut progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Drift> {
    let mut options = options.clone();
    options.layers.sort_unstable();
    options.layers.dedup();
    let options = &options;
    let windows = options.windows(checkpoint, texts)?;
    if options.layers.is_empty() {
        return Err(Error::NoLayers);
    }
    let count = windows.count();
    if !(0..count).any(|window| options.shard.takes(window)) {
        let Shard { index, of } = options.shard;
        return Err(Error::EmptyShard { index, of, windows: count });
    }
    for &layer in &options.layers {
        checkpoint.block(layer)?;
    }
    let attention = checkpoint.attention();
    let floor_tokens = options.floor_tokens;
    let reach =
        if attention.is_ok() { Whole::floor_reach(checkpoint, options) } else { usize::MAX };
    if floor_tokens == 0 || !windows.iter().any(|window| window.scored.start < reach) {
        return Err(Error::NoFloorTokens { floor_tokens });
    }
    let (runner, blocks_only) = match attention {
        Ok(_) => (Runner::Whole(Whole::load(checkpoint, options, device)?), None),
        Err(why) => (Runner::Blocks(Blocks { checkpoint, options, device }), Some(why.to_string())),
    };
    let chosen = || windows.iter().enumerate().filter(|(i, _)| options.shard.takes(*i));
    let of = chosen().map(|(_, window)| window.ids.len()).sum();
    let (mut sums, mut done) = (vec![], 0.0);
    thread::scope(|scope| {
        // Reading a tokenizer takes a second, and it is asked for texts only when a window is done.
        if matches!(&runner, Runner::Whole(whole) if whole.has_logits()) {
            scope.spawn(|| checkpoint.decode(&[]));
        }
        let (indices, chosen): (Vec<_>, Vec<_>) = chosen().unzip();
        let at_once = options.windows_at_once.max(1);
        for (indices, windows) in indices.chunks(at_once).zip(chosen.chunks(at_once)) {
            let length = windows.iter().map(|window| window.ids.len()).sum::<usize>() as f64;
            let mut stop = false;
            sums.extend(runner.windows(checkpoint, indices, windows, |fraction| {
                stop |= progress(Progress { tokens: done + fraction * length, of }).is_break();
            })?);
            done += length;
            if stop {
                break;
            }
        }
        Ok::<_, Error>(())
    })?;
    let mut header = Header::new(checkpoint, options, device, texts, count)?;
    if let Runner::Whole(whole) = &runner {
        header.gates = whole.gates();
        header.remarks.extend(whole.remarks().iter().cloned());
        header.remarks.extend(streams(checkpoint));
        let tokens = |texts: &Texts| texts.iter().map(<[u32]>::len).sum();
        header.remarks.extend(
            texts.sources().and_then(|own| both_read(checkpoint, tokens(own), tokens(texts))),
        );
        header.remarks.extend(dense(checkpoint).filter(|_| !whole.has_logits()));
    }
    let header = Header { blocks_only, ..header };
    let part = Part { shard: options.shard, also: vec![], windows: sums };
    Ok(Drift::new(header, Origin::here(), part))
}

/// What is measured where there are several residual streams.
fn streams(checkpoint: &Checkpoint) -> Option<Remark> {
    let streams = checkpoint.config().decoder().altup.as_ref()?.inputs;
    let text = format!(
        "there are {streams} residual streams, of which each layer computes one; their drift is that of all together"
    );
    Some(Remark::note(RemarkKind::Chosen, text))
}

/// What stands behind the embeddings of encoders that do not project their states themselves.
fn dense(checkpoint: &Checkpoint) -> Option<Remark> {
    let text = "embeddings are means over the hidden states; dense layers in files of their own, such as EmbeddingGemma \
                1's two, are not applied";
    let projects = checkpoint.config().decoder().embedding_dim.is_some();
    (!projects).then(|| Remark::note(RemarkKind::Unused, text))
}

/// Compares windows, either in the whole model or block by block.
enum Runner<'a> {
    Whole(Whole<'a>),
    Blocks(Blocks<'a>),
}

impl Runner<'_> {
    fn windows(
        &self,
        checkpoint: &Checkpoint,
        indices: &[usize],
        windows: &[Window],
        progress: impl FnMut(f64),
    ) -> Result<Vec<WindowSums>> {
        let sums = match self {
            Self::Whole(whole) => whole.windows(windows, progress)?,
            Self::Blocks(blocks) => blocks.windows(windows, progress)?,
        };
        let each = indices.iter().zip(windows).zip(sums);
        Ok(each
            .map(|((&index, window), sums)| of_window(checkpoint, index, window, sums))
            .collect())
    }
}

/// A window's sums, with the positions that stand out, and without what only these were found by.
fn of_window(
    checkpoint: &Checkpoint,
    index: usize,
    window: &Window,
    sums: WholeSums,
) -> WindowSums {
    let WholeSums { layers, floor_positions, mut logits, embedding } = sums;
    let positions: Vec<_> = window.scored.clone().collect();
    let notable = match &logits {
        Some([pair, ..]) => {
            let labels: Vec<_> = window.labels().collect();
            Notable::of(checkpoint, &window.ids, &positions, &labels, pair, |id| id)
        }
        None => Notable::default(),
    };
    logits.iter_mut().flatten().for_each(LogitSums::forget_tokens);
    let positions = positions.len();
    WindowSums { index, positions, floor_positions, layers, logits, embedding, notable }
}
