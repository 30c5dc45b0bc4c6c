//! A window's drift in the whole model.

use super::embedding::EmbeddingSums;
use super::head;
use super::layers::{LayerSums, Places};
use super::lockstep::Lockstep;
use super::logits::LogitSums;
use super::options::DriftOptions;
use super::side::{Side, Sides, distinct};
use super::window::Window;
use crate::error::{Error, Result};
use crate::input::TokenIds;
use candle_core::{Device, Tensor};
use gemma_mlp::Checkpoint;
use gemma_mlp::checkpoint::AttentionConfig;
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

    /// Whether it predicts tokens, which encoders do not.
    pub(super) fn has_logits(&self) -> bool {
        self.heads.iter().any(Option::is_some)
    }

    /// Adds up the layers that are reported, and, unless it is an encoder, the logits.
    pub(super) fn window(
        &self,
        ids: &TokenIds,
        window: &Window,
        mut progress: impl FnMut(f64),
    ) -> Result<WholeSums> {
        let mut layers: Vec<LayerSums> = vec![];
        let lengths: Vec<_> = (0..self.heads.len()).map(|side| self.length(side, ids)).collect();
        let hidden =
            self.lockstep.run(&ids.tensor(self.device)?, &lengths, |layer, start, lanes| {
                if self.options.layers.contains(&layer) {
                    let scored = &window.scored;
                    let scored =
                        scored.start.saturating_sub(start)..scored.end.saturating_sub(start);
                    let sums =
                        LayerSums::of_step(&self.lockstep, layer, lanes, self.places, &scored)?;
                    match layers.last_mut().filter(|_| start > 0) {
                        Some(layer) => layer.merge(&sums),
                        None => layers.push(sums),
                    }
                }
                let done = layer as f64 + start as f64 / ids.seq_len() as f64;
                progress(0.5 * done / self.lockstep.layers() as f64);
                Ok(())
            })?;
        let floor = [self.places.floor.0, self.places.floor.1].map(|side| hidden[side].dims()[1]);
        let end = window.scored.end.min(floor[0]).min(floor[1]);
        let floor_positions = end.saturating_sub(window.scored.start);
        let mut sides = vec![];
        for (head, hidden) in self.heads.iter().zip(&hidden) {
            let end = window.scored.end.min(hidden.dim(1)?);
            let start = window.scored.start.min(end);
            let scored = hidden.get(0)?.narrow(0, start, end - start)?; // [scored, hidden]
            sides.extend(head.as_ref().map(|head| (head, scored)));
        }
        if sides.is_empty() {
            let Places { drift, floor } = self.places;
            let of = |pair| self.embedding(pair, &hidden, window);
            let embedding = Some([of(drift)?, of(floor)?]);
            return Ok(WholeSums { layers, floor_positions, logits: None, embedding });
        }
        let Places { drift, floor } = self.places;
        let pairs = [drift, floor, (floor.0, drift.1)];
        let logits = compare_heads(&sides, &pairs, window, |f| progress(0.5 + 0.5 * f))?;
        Ok(WholeSums { layers, floor_positions, logits: Some(logits), embedding: None })
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
        let along = |side: Side| side.dtype == a.dtype || side.dtype == b.dtype;
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
