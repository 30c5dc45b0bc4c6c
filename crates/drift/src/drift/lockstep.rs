//! Several sides of one model, layer by layer in one pass over the text.

use super::side::Side;
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use gemma_mlp::Checkpoint;
use gemma_mlp::internal::{should_pack, threads::awake};
use gemma_mlp::mlp::{GateUp, Gating, GemmaMlp};
use gemma_mlp::model::{Attended, Cache, Gemma, Layer, Pass};

/// Positions that go through a block at a time: few enough for what lies between its matrices to
/// stay in a large cache, and to be memory that the allocator keeps.
const POSITIONS: usize = 256;

/// Models that differ by their sides alone. Sides of one dtype run as one batch, so that every
/// weight is read once for all of them; sides whose weights have the same values share these.
pub struct Lockstep {
    groups: Vec<Group>,
    /// For each side, its group and its place in there.
    places: Vec<(usize, usize)>,
}

/// The sides of one dtype.
struct Group {
    gemma: Gemma,
    sides: Vec<Side>,
}

/// One side in the middle of a layer, at some positions. Tensors are `[1, positions, …]`.
pub struct LaneStep {
    /// The block's input, `[1, positions, hidden]`.
    pub input: Tensor,
    /// What gate and up make of it.
    pub projected: GateUp,
    /// `activation(gate)`.
    pub activated: Tensor,
    /// `activation(gate) ⊙ up`.
    pub product: Tensor,
    /// The block's output.
    pub output: Tensor,
    /// The residual stream after the layer.
    pub stream: Tensor,
}

impl Lockstep {
    /// Loads a model for a number of sides.
    ///
    /// # Errors
    /// Those of [`Gemma::load`].
    pub fn load(checkpoint: &Checkpoint, sides: &[Side], device: &Device) -> Result<Self> {
        let mut groups: Vec<Group> = vec![];
        let mut places = vec![];
        for &side in sides {
            let at = match groups.iter().position(|group| group.gemma.dtype() == side.dtype) {
                Some(at) => at,
                None => {
                    let known = groups.iter().map(|group| &group.gemma);
                    let gemma = load_sharing(checkpoint, known, side.dtype, device)?;
                    groups.push(Group { gemma, sides: vec![] });
                    groups.len() - 1
                }
            };
            places.push((at, groups[at].sides.len()));
            groups[at].sides.push(side);
        }
        Ok(Self { groups, places })
    }

    /// The model of a side, under its activation.
    pub fn model(&self, side: usize) -> Gemma {
        let (group, place) = self.places[side];
        let Group { gemma, sides } = &self.groups[group];
        gemma.with_activation(sides[place].activation).with_rounding(sides[place].rounding)
    }

    /// The embedding of a text, of unit length, from a side's normed hidden states, `[1, seq, hidden]`: `[1, dim]`.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn embedding(&self, side: usize, hidden: &Tensor) -> Result<Tensor> {
        let gemma = &self.groups[self.places[side].0].gemma;
        Ok(Gemma::normalized(&gemma.pooled(hidden, None)?)?)
    }

    /// The block of a side in a layer.
    pub fn block(&self, side: usize, layer: usize) -> GemmaMlp {
        let (group, place) = self.places[side];
        self.groups[group].block(place, layer)
    }

    /// Whether two sides have their dtype in common, and with it weights and projections.
    pub fn share(&self, a: usize, b: usize) -> bool {
        self.places[a].0 == self.places[b].0
    }

    /// How many layers there are.
    pub fn layers(&self) -> usize {
        self.groups.first().map_or(0, |group| group.gemma.layers().len())
    }

    /// How many GELUs each side computes, all of which follow its activation.
    pub fn gates(&self) -> usize {
        self.groups.first().map_or(0, |group| group.gemma.gates())
    }

    /// Runs all sides on ids `[1, seq]`, each on as many of the first ones as `lengths` says (or
    /// more: sides of one dtype run as far as the longest of them). Returns each side's normed
    /// hidden states, `[1, seq, hidden]`.
    ///
    /// `watch` is handed every layer in pieces of 256 positions: the layer's index, the
    /// first position, and a step per side, which has none of the positions behind its end.
    ///
    /// # Errors
    /// An id out of the vocabulary, those of `watch`.
    pub fn run(
        &self,
        ids: &Tensor,
        lengths: &[usize],
        mut watch: impl FnMut(usize, usize, &[LaneStep]) -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        let length = |at: usize| {
            let own = lengths.iter().zip(&self.places).filter(|(_, place)| place.0 == at);
            own.map(|(&length, _)| length).max().unwrap_or(0).min(ids.dims()[1])
        };
        let begin = |(at, group): (usize, &Group)| group.begin(&ids.narrow(1, 0, length(at))?);
        let begun = self.groups.iter().enumerate().map(begin).collect::<Result<Vec<_>>>()?;
        let (mut streams, mut passes): (Vec<_>, Vec<_>) = begun.into_iter().unzip();
        for layer in 0..self.layers() {
            let seq = ids.dims()[1];
            streams = awake(|| self.run_layer(layer, &streams, &mut passes, seq, &mut watch))?;
        }
        let normed = self.groups.iter().zip(&streams).map(|(group, x)| group.gemma.final_norm(x));
        let normed = normed.collect::<candle_core::Result<Vec<_>>>()?;
        self.places.iter().map(|&(group, at)| Ok(normed[group].narrow(0, at, 1)?)).collect()
    }

    /// One layer of all groups, from stream to stream.
    fn run_layer(
        &self,
        layer: usize,
        streams: &[Tensor],
        passes: &mut [Pass],
        seq: usize,
        watch: &mut impl FnMut(usize, usize, &[LaneStep]) -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        let each = self.groups.iter().zip(streams).zip(passes);
        let attended = each.map(|((group, x), pass)| Ok(group.layer(layer).attend(x, pass)?));
        let attended = attended.collect::<Result<Vec<_>>>()?;
        let mut next = vec![vec![]; self.groups.len()];
        for start in (0..seq).step_by(POSITIONS) {
            let mut steps = vec![];
            for ((group, attended), next) in self.groups.iter().zip(&attended).zip(&mut next) {
                let (lanes, stream) = group.step(layer, &piece(attended, start)?)?;
                steps.push(lanes.into_iter().map(Some).collect::<Vec<_>>());
                next.push(stream);
            }
            let steps = self.places.iter().filter_map(|&(group, at)| steps[group][at].take());
            watch(layer, start, &steps.collect::<Vec<_>>())?;
        }
        next.iter().map(|pieces| Ok(Tensor::cat(pieces, 1)?)).collect()
    }

    /// The logits that follow each side's ids, `[vocab]` each; every side has ids of its own, as
    /// many as the others, which follow those in the cache.
    ///
    /// # Errors
    /// An id out of the vocabulary, a model without a head.
    pub fn next(&self, ids: &[Vec<u32>], caches: &mut Caches) -> Result<Vec<Tensor>> {
        caches.0.resize(self.groups.len(), Cache::default());
        let mut logits = vec![];
        for (at, (group, cache)) in self.groups.iter().zip(&mut caches.0).enumerate() {
            let own = ids.iter().zip(&self.places).filter(|(_, place)| place.0 == at);
            let own: Vec<_> = own.map(|(ids, _)| ids.clone()).collect();
            logits.push(awake(|| group.next(&own, cache))?);
        }
        self.places.iter().map(|&(group, at)| Ok(logits[group].get(at)?.get(0)?)).collect()
    }
}

/// The caches of a [`Lockstep`], empty at first.
#[derive(Default)]
pub struct Caches(Vec<Cache>);

/// A model in a dtype, with the weights of one that is there if their values are the same.
pub(crate) fn load_sharing<'a>(
    checkpoint: &Checkpoint,
    mut known: impl Iterator<Item = &'a Gemma>,
    dtype: DType,
    device: &Device,
) -> Result<Gemma> {
    let exact = |dtype| checkpoint.tensors().are_exact_in(dtype);
    let packs = |dtype| should_pack(dtype, device);
    let shares = |other: &&Gemma| {
        let other = other.dtype();
        let held_alike = other == dtype || (packs(other) && packs(dtype));
        exact(other) && exact(dtype) && held_alike
    };
    match known.find(shares) {
        Some(gemma) => Ok(gemma.with_dtype(dtype)),
        None => Ok(Gemma::load(checkpoint, device, dtype)?),
    }
}

impl Group {
    /// What enters the first layer, once per side: `[sides, seq, …]`, and the pass, in which each side has its own
    /// activation.
    fn begin(&self, ids: &Tensor) -> Result<(Tensor, Pass<'static>)> {
        let pass = Pass::new().with_gatings(self.gatings());
        Ok(self.gemma.begin(&ids.repeat((self.sides.len(), 1))?, pass)?)
    }

    fn gatings(&self) -> Vec<Gating> {
        let gating = |side: &Side| Gating { activation: side.activation, rounding: side.rounding };
        self.sides.iter().map(gating).collect()
    }

    fn layer(&self, layer: usize) -> &Layer {
        &self.gemma.layers()[layer]
    }

    fn block(&self, place: usize, layer: usize) -> GemmaMlp {
        let Side { activation, rounding, .. } = self.sides[place];
        self.layer(layer).mlp().with_activation(activation).with_rounding(rounding)
    }

    /// What a layer does after attention: from the residual stream there, `[sides, positions,
    /// hidden]`, to that after the layer, with what happened to each side.
    fn step(&self, index: usize, attended: &Attended) -> Result<(Vec<LaneStep>, Tensor)> {
        let layer = self.layer(index);
        let input = layer.mlp_input(attended)?;
        let projected = layer.mlp().project(&input)?;
        let mut parts = vec![];
        for place in 0..self.sides.len() {
            let projected = part(&projected, place)?;
            let (activated, product) =
                self.block(place, index).activated_and_product(&projected)?;
            parts.push((projected, activated, product));
        }
        let products: Vec<_> = parts.iter().map(|(_, _, product)| product).collect();
        let output = layer.mlp().down(&Tensor::cat(&products, 0)?)?; // [sides, positions, hidden]
        let next = layer.add_output(attended, output.clone())?;
        let lane = |(place, (projected, activated, product))| {
            let at = |t: &Tensor| t.narrow(0, place, 1);
            let (input, output, stream) = (at(&input)?, at(&output)?, at(&next)?);
            Ok(LaneStep { input, projected, activated, product, output, stream })
        };
        let lanes = parts.into_iter().enumerate().map(lane).collect::<Result<_>>()?;
        Ok((lanes, next))
    }

    /// The logits that follow, `[sides, 1, vocab]`.
    fn next(&self, ids: &[Vec<u32>], cache: &mut Cache) -> Result<Tensor> {
        let seq = ids.first().map_or(0, Vec::len);
        let device = self.gemma.device();
        let ids = Tensor::from_vec(ids.concat(), (ids.len(), seq), device)?;
        let pass = Pass::with_cache(cache).with_gatings(self.gatings());
        let (mut x, mut pass) = self.gemma.begin(&ids, pass)?; // [sides, seq, …]
        for (index, layer) in self.gemma.layers().iter().enumerate() {
            let attended = layer.attend(&x, &mut pass)?;
            let projected = layer.mlp().project(&layer.mlp_input(&attended)?)?;
            let gated = (0..self.sides.len())
                .map(|place| Ok(self.block(place, index).gated(&part(&projected, place)?)?));
            let product = Tensor::cat(&gated.collect::<Result<Vec<_>>>()?, 0)?;
            x = layer.add_output(&attended, layer.mlp().down(&product)?)?;
        }
        let last = x.narrow(1, seq - 1, 1)?;
        Ok(self.gemma.logits(&self.gemma.final_norm(&last)?)?)
    }
}

/// The positions from `start` on, [`POSITIONS`] or as many as there are.
fn piece(attended: &Attended, start: usize) -> Result<Attended> {
    let seq = attended.stream.dim(1)?;
    let (start, end) = (start.min(seq), (start + POSITIONS).min(seq));
    Ok(attended.positions(start, end - start)?)
}

/// A side's part of projections.
fn part(projected: &GateUp, place: usize) -> Result<GateUp> {
    let GateUp { gate, up } = projected;
    Ok(GateUp { gate: gate.narrow(0, place, 1)?, up: up.narrow(0, place, 1)? })
}
