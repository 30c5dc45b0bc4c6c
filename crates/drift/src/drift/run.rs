//! The drift of a model on texts: window by window, sums first, figures from the sums.

use super::blocks::Blocks;
use super::logits::LogitSums;
use super::options::{DriftOptions, Progress, Shard};
use super::origin::Origin;
use super::positions::Notable;
use super::result::{Drift, Header};
use super::sums::WindowSums;
use super::whole::Whole;
use super::window::Window;
use crate::error::{Error, Result};
use crate::input::TokenIds;
use candle_core::Device;
use gemma_mlp::Checkpoint;
use std::ops::ControlFlow;
use std::thread;

/// Measures the drift between two sides on texts.
///
/// Where the whole model runs here, every layer is compared on one input (that of the first side's
/// own pass over the text) and in the accumulated residual stream, and the logits of all positions
/// are. Otherwise the blocks alone are compared, each on [`crate::input::gaussian_input`].
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
    let mut options = options.clone();
    options.layers.sort_unstable();
    options.layers.dedup();
    let options = &options;
    let windows = options.windows(checkpoint, texts)?;
    if options.floor_tokens == 0 {
        return Err(Error::NoFloorTokens);
    }
    if !(0..windows.len()).any(|window| options.shard.takes(window)) {
        let Shard { index, of } = options.shard;
        return Err(Error::EmptyShard { index, of, windows: windows.len() });
    }
    for &layer in &options.layers {
        checkpoint.block(layer)?;
    }
    let runner = match checkpoint.attention() {
        Ok(_) => Runner::Whole(Whole::load(checkpoint, options, device)?),
        Err(_) => Runner::Blocks(Blocks { checkpoint, options, device }),
    };
    let chosen = || windows.iter().enumerate().filter(|(i, _)| options.shard.takes(*i));
    let of = chosen().map(|(_, window)| window.ids.len()).sum();
    let (mut sums, mut done) = (vec![], 0.0);
    thread::scope(|scope| {
        // Reading a tokenizer takes a second, and it is asked for texts only when a window is done.
        if matches!(&runner, Runner::Whole(whole) if whole.has_logits()) {
            scope.spawn(|| checkpoint.decode(&[]));
        }
        for (index, window) in chosen() {
            let length = window.ids.len() as f64;
            let mut stop = false;
            sums.push(runner.window(checkpoint, index, window, |fraction| {
                stop |= progress(Progress { tokens: done + fraction * length, of }).is_break();
            })?);
            done += length;
            if stop {
                break;
            }
        }
        Ok::<_, Error>(())
    })?;
    let header = Header::new(checkpoint, options, device, texts, windows.len())?;
    Ok(Drift::new(header, Origin::here(), options.shard, sums))
}

/// Compares windows, either in the whole model or block by block.
enum Runner<'a> {
    Whole(Whole<'a>),
    Blocks(Blocks<'a>),
}

impl Runner<'_> {
    fn window(
        &self,
        checkpoint: &Checkpoint,
        index: usize,
        window: &Window,
        progress: impl FnMut(f64),
    ) -> Result<WindowSums> {
        let ids = TokenIds::single(window.ids.clone())?;
        let (layers, mut logits) = match self {
            Self::Whole(whole) => whole.window(&ids, window, progress)?,
            Self::Blocks(blocks) => (blocks.window(&ids, progress)?, None),
        };
        let notable = match &logits {
            Some([pair, ..]) => Notable::of(checkpoint, window, pair),
            None => Notable::default(),
        };
        logits.iter_mut().flatten().for_each(LogitSums::forget_tokens);
        Ok(WindowSums { index, positions: window.scored.len(), layers, logits, notable })
    }
}
