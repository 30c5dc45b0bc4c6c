//! A window's drift in the whole model.

use super::embedding::EmbeddingSums;
use super::head;
use super::layers::{LayerSums, Places};
use super::lockstep::{Lockstep, Text};
use super::logits::LogitSums;
use super::options::DriftOptions;
use super::side::{Side, Sides, distinct};
use super::window::Window;
use crate::error::{Error, Result};
use crate::input::TokenIds;
use candle_core::{Device, Tensor};
use gemma_mlp::Checkpoint;
use gemma_mlp::checkpoint::{AttentionConfig, Remark};
use gemma_mlp::model::Head;

/// The sides of a run, loaded.
pub(super) struct Whole<'a> {
    lockstep: Lockstep,
    places: Places,
    heads: Vec<Option<Head>>,
    options: &'a DriftOptions,
    /// How many of a window's first tokens a floor's sides run on that do not run along with the pair's.
    floor_tokens: usize,
    device: &'a Device,
}

/// What a window adds up to.
pub(super) struct WholeSums {
    pub(super) layers: Vec<LayerSums>,
    /// Scored positions that the floor is measured on.
    pub(super) floor_positions: usize,
    /// Of the pair, of the floor, and of the pair's b against the floor's a.
    pub(super) logits: Option<[LogitSums; 3]>,
    /// Where there are no logits: of the pair and of the floor.
    pub(super) embedding: Option<[EmbeddingSums; 2]>,
}

impl<'a> Whole<'a> {
    pub(super) fn load(
        checkpoint: &Checkpoint,
        options: &'a DriftOptions,
        device: &'a Device,
    ) -> Result<Self> {
        let (pair, floor) = (options.sides, options.floor_sides);
        let (sides, [a, b, floor_a, floor_b]) = distinct([pair.a, pair.b, floor.a, floor.b]);
        let places = Places { drift: (a, b), floor: (floor_a, floor_b) };
        let lockstep = Lockstep::load(checkpoint, &sides, device)?;
        let heads = (0..sides.len()).map(|side| lockstep.model(side).head().cloned()).collect();
        let floor_tokens = floor_tokens(checkpoint, options);
        Ok(Self { lockstep, places, heads, options, floor_tokens, device })
    }

    /// How many GELUs follow the switch.
    pub(super) fn gates(&self) -> usize {
        self.lockstep.gates()
    }

    /// What there is to say of how its sides compute.
    pub(super) fn remarks(&self) -> &[Remark] {
        self.lockstep.remarks()
    }

    /// Whether it predicts tokens, which encoders do not.
    pub(super) fn has_logits(&self) -> bool {
        self.heads.iter().any(Option::is_some)
    }

    /// Adds up the layers that are reported, and, unless it is an encoder, the logits: of windows, through each layer
    /// together.
    pub(super) fn windows(
        &self,
        windows: &[Window],
        mut progress: impl FnMut(f64),
    ) -> Result<Vec<WholeSums>> {
        let ids = windows.iter().map(Window::token_ids).collect::<Result<Vec<_>>>()?;
        let texts = ids.iter().map(|ids| self.text(ids)).collect::<Result<Vec<_>>>()?;
        let mut layers: Vec<Vec<LayerSums>> = windows.iter().map(|_| vec![]).collect();
        let hidden = self.lockstep.run_all(&texts, |text, layer, start, lanes| {
            let ids = &ids[text];
            // All that the encoder reads counts.
            let all = 0..ids.source().map_or(0, TokenIds::seq_len);
            let (scored, seq) = match layer < self.lockstep.encoder_layers() {
                true => (&all, all.len()),
                false => (&windows[text].scored, ids.seq_len()),
            };
            if self.options.layers.contains(&layer) {
                let scored = scored.start.saturating_sub(start)..scored.end.saturating_sub(start);
                let sums = LayerSums::of_step(&self.lockstep, layer, lanes, self.places, &scored)?;
                match layers[text].last_mut().filter(|_| start > 0) {
                    Some(layer) => layer.merge(&sums),
                    None => layers[text].push(sums),
                }
            }
            let of_text = (text as f64 + start as f64 / seq as f64) / windows.len() as f64;
            progress(0.5 * (layer as f64 + of_text) / self.lockstep.layers() as f64);
            Ok(())
        })?;
        drop(texts);
        let Places { drift, floor } = self.places;
        if !self.has_logits() {
            let each = windows.iter().zip(hidden).zip(layers);
            let sums = each.map(|((window, hidden), layers)| {
                let of = |pair| self.embedding(pair, &hidden, window);
                let floor_positions = self.floor_positions(&hidden, window);
                let embedding = Some([of(drift)?, of(floor)?]);
                Ok(WholeSums { layers, floor_positions, logits: None, embedding })
            });
            return sums.collect();
        }
        let pairs = [drift, floor, (floor.0, drift.1)];
        let texts = windows.iter().zip(&hidden);
        let texts = texts.map(|(window, hidden)| self.scored(window, hidden));
        let texts = texts.collect::<Result<Vec<_>>>()?;
        let logits = compare_heads(&texts, &pairs, |f| progress(0.5 + 0.5 * f))?;
        let each = windows.iter().zip(&hidden).zip(layers).zip(logits);
        let sums = each.map(|(((window, hidden), layers), logits)| WholeSums {
            layers,
            floor_positions: self.floor_positions(hidden, window),
            logits: Some(logits),
            embedding: None,
        });
        Ok(sums.collect())
    }

    /// A window for all sides.
    fn text(&self, ids: &TokenIds) -> Result<Text> {
        Ok(Text {
            source: ids.source().map(|source| source.tensor(self.device)).transpose()?,
            ids: ids.tensor(self.device)?,
            lengths: (0..self.heads.len()).map(|side| self.length(side, ids)).collect(),
        })
    }

    /// The scored positions of a window, as far as each side ran, for the heads.
    fn scored(&self, window: &Window, hidden: &[Tensor]) -> Result<head::Text<'_>> {
        let mut sides = vec![];
        for (head, hidden) in self.heads.iter().zip(hidden) {
            let end = window.scored.end.min(hidden.dim(1)?);
            let start = window.scored.start.min(end);
            let scored = hidden.get(0)?.narrow(0, start, end - start)?; // [scored, hidden]
            sides.extend(head.as_ref().map(|head| (head, scored)));
        }
        Ok(head::Text { sides, labels: window.labels().collect() })
    }

    /// Scored positions that the floor's sides ran on.
    fn floor_positions(&self, hidden: &[Tensor], window: &Window) -> usize {
        let floor = [self.places.floor.0, self.places.floor.1].map(|side| hidden[side].dims()[1]);
        let end = window.scored.end.min(floor[0]).min(floor[1]);
        end.saturating_sub(window.scored.start)
    }

    /// A pair's hidden states and embeddings of a window, as far as both sides ran.
    fn embedding(
        &self,
        (a, b): (usize, usize),
        hidden: &[Tensor],
        window: &Window,
    ) -> Result<EmbeddingSums> {
        let length = hidden[a].dim(1)?.min(hidden[b].dim(1)?);
        let [first, second] = [a, b].map(|side| Ok::<_, Error>(hidden[side].narrow(1, 0, length)?));
        let (first, second) = (first?, second?);
        let end = window.scored.end.min(length);
        let start = window.scored.start.min(end);
        let scored = |x: &Tensor| x.narrow(1, start, end - start);
        let embeddings =
            [self.lockstep.embedding(a, &first)?, self.lockstep.embedding(b, &second)?];
        EmbeddingSums::of([&scored(&first)?, &scored(&second)?], embeddings.each_ref())
    }

    /// How many of a window's first tokens the floor is measured on: all, where its sides run along
    /// with the pair's.
    pub(super) fn floor_reach(checkpoint: &Checkpoint, options: &DriftOptions) -> usize {
        let Sides { a, b } = options.sides;
        let along = |side: Side| [a, b].map(Side::model).contains(&side.model());
        let Sides { a: wide, b: narrow } = options.floor_sides;
        match along(wide) && along(narrow) {
            true => usize::MAX,
            false => floor_tokens(checkpoint, options),
        }
    }

    /// How many of a window's tokens a side runs on.
    fn length(&self, side: usize, ids: &TokenIds) -> usize {
        let (a, b) = self.places.drift;
        if side == a || side == b { ids.seq_len() } else { self.floor_tokens }
    }
}

/// The option, and as many more as see what is behind them: cut off there, a text would be another.
fn floor_tokens(checkpoint: &Checkpoint, options: &DriftOptions) -> usize {
    let seen_ahead = checkpoint.attention().map_or(0, AttentionConfig::seen_ahead);
    options.floor_tokens.max(seen_ahead)
}

/// The three pairs' logits on each text; pairs that are one and the same are compared once.
fn compare_heads(
    texts: &[head::Text],
    pairs: &[(usize, usize); 3],
    progress: impl FnMut(f64),
) -> Result<Vec<[LogitSums; 3]>> {
    let mut distinct: Vec<(usize, usize)> = vec![];
    for &pair in pairs {
        if !distinct.contains(&pair) {
            distinct.push(pair);
        }
    }
    let all = head::compare(texts, &distinct, progress)?;
    let three = |sums: Vec<LogitSums>| {
        let of = |pair| distinct.iter().position(|&p| p == pair).map(|at| sums[at].clone());
        pairs.map(|pair| of(pair).unwrap_or_default())
    };
    Ok(all.into_iter().map(three).collect())
}
