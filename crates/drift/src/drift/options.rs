//! What to compare, how, and how far it is.

use super::side::Sides;
use super::window::{Score, Windowing, Windows};
use crate::error::{Error, Result};
use crate::input::{Texts, check_ids};
use gemma_mlp::Checkpoint;
use serde::{Deserialize, Serialize};

/// What to compare, and how.
#[derive(Debug, Clone)]
pub struct DriftOptions {
    /// The pair to measure.
    pub sides: Sides,
    /// The pair that shows what rounding alone does.
    pub floor_sides: Sides,
    /// Which layers to report, by index: each once, whatever the order.
    pub layers: Vec<usize>,
    /// How many of a window's first tokens the floor is measured on: its size takes fewer of them
    /// than a small drift does.
    pub floor_tokens: usize,
    /// How texts are cut.
    pub windowing: Windowing,
    /// The windows that this run takes: every n-th from the i-th on.
    pub shard: Shard,
    /// How many windows go through a layer before the next one: more than one pays where the checkpoint
    /// [streams](Checkpoint::streamed) its weights, which are then read once for all of them. It changes no figure.
    pub windows_at_once: usize,
}

impl DriftOptions {
    /// What `gemma-mlp drift` measures unless told otherwise: all layers, on windows of 2,048
    /// tokens that do not overlap; the noise floor of side a in the checkpoint's dtype, on 512
    /// tokens of each.
    ///
    /// # Errors
    /// [`Error::NoFloor`] of a checkpoint in f64.
    pub fn new(checkpoint: &Checkpoint, sides: Sides) -> Result<Self> {
        Ok(Self {
            sides,
            floor_sides: Sides::floor(sides.a, checkpoint.run_dtype())?,
            layers: (0..checkpoint.blocks().len()).collect(),
            floor_tokens: 512,
            windowing: Windowing { window: 2048, stride: 2048, score: Score::All },
            shard: Shard::WHOLE,
            windows_at_once: 1,
        })
    }

    /// The windows of texts, of which there is at least one, none of them empty, and whose ids are
    /// all words of the checkpoint's vocabulary.
    pub(super) fn windows<'a>(
        &self,
        checkpoint: &Checkpoint,
        texts: &'a Texts,
    ) -> Result<Windows<'a>> {
        let config = checkpoint.config();
        if texts.is_empty() {
            return Err(Error::NoText);
        }
        for (index, text) in texts.iter().enumerate() {
            if text.is_empty() {
                return Err(Error::EmptyText { index });
            }
            check_ids(text, config.decoder().vocab_size)?;
        }
        self.check_sources(checkpoint, texts)?;
        self.windowing.cut(texts, config.bos_token_id)
    }

    /// Whether there is a text for the encoder beside each of the decoder's, if the model has one and runs here.
    fn check_sources(&self, checkpoint: &Checkpoint, texts: &Texts) -> Result<()> {
        let config = checkpoint.config();
        let Some(encoder) = config.encoder() else {
            let family = config.family;
            return texts.sources().map_or(Ok(()), |_| Err(Error::NoEncoder { family }));
        };
        if checkpoint.attention().is_err() {
            return Ok(());
        }
        let Some(sources) = texts.sources() else {
            return Err(Error::NoSource { family: config.family });
        };
        let Windowing { window, score, .. } = self.windowing;
        for (index, (text, source)) in texts.iter().zip(sources.iter()).enumerate() {
            check_ids(source, encoder.vocab_size)?;
            if text.len() > window || score != Score::All {
                return Err(Error::CutTarget { index, tokens: text.len(), window });
            }
        }
        Ok(())
    }
}

/// A part of a run, for machines that share the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
pub struct Shard {
    /// Which part, from 1 on.
    pub index: usize,
    /// How many there are.
    pub of: usize,
}

impl Shard {
    /// All of it.
    pub const WHOLE: Self = Self { index: 1, of: 1 };

    /// Whether it is one of those that there are.
    pub(super) fn exists(self) -> bool {
        (1..=self.of).contains(&self.index)
    }

    pub(super) fn takes(self, window: usize) -> bool {
        window.checked_rem(self.of).is_some_and(|part| part + 1 == self.index)
    }
}

/// How far a run is. Returning [`ControlFlow::Break`](std::ops::ControlFlow::Break) ends it after
/// the window at hand, with the figures of all windows so far.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Tokens that are done, layers and head counting as they come.
    pub tokens: f64,
    /// Tokens that there are.
    pub of: usize,
}
