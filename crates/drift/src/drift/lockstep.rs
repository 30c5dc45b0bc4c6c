//! Several sides of one model, layer by layer in one pass over the text.

use super::side::{Model, Side};
use super::stacks::{Stacks, shares};
use crate::error::Result;
use candle_core::{DType, Device, Tensor};
use gemma_mlp::Checkpoint;
use gemma_mlp::checkpoint::Remark;
use gemma_mlp::internal::threads::awake;
use gemma_mlp::mlp::{GateUp, Gating, GemmaMlp};
use gemma_mlp::model::{Attended, Cache, Encoded, Gemma, Layer, Pass};
use std::ops::Range;

/// Positions that go through a block at a time: few enough for what lies between its matrices to
/// stay in a large cache, and to be memory that the allocator keeps.
const POSITIONS: usize = 256;

/// Models that differ by their sides alone, of one stack of layers or of an encoder's and a decoder's, whose layers are
/// counted from the encoder's first one on. Sides of one dtype, with weights that are quantised alike, run as one batch, so
/// that every weight is read once for all of them; sides whose weights have the same values share these.
pub struct Lockstep {
    groups: Vec<Group>,
    /// For each side, its group and its place in there.
    places: Vec<(usize, usize)>,
    /// What there is to say of how sides compute.
    remarks: Vec<Remark>,
}

/// The sides of one dtype and one kind of weights.
struct Group {
    model: Model,
    /// As they were loaded.
    loaded: Stacks,
    /// The same with what this model rounds.
    stacks: Stacks,
    sides: Vec<Side>,
}

/// A text for all sides.
pub struct Text {
    /// What an encoder reads, `[1, seq]`.
    pub source: Option<Tensor>,
    /// `[1, seq]`.
    pub ids: Tensor,
    /// On how many of the first ids each side runs, or on more: sides of one dtype run as far as the longest of them.
    pub lengths: Vec<usize>,
}

/// A text between two layers: the streams of all groups, and what their layers hand to one another.
struct Running<'a> {
    seq: usize,
    streams: Vec<Tensor>,
    passes: Vec<Pass<'a>>,
}

impl<'a> Running<'a> {
    fn new(seq: usize, groups: Vec<(Tensor, Pass<'a>)>) -> Self {
        let (streams, passes) = groups.into_iter().unzip();
        Self { seq, streams, passes }
    }
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
        let (mut places, mut remarks) = (vec![], vec![]);
        for &side in sides {
            let model = side.model();
            let at = match groups.iter().position(|group| group.model == model) {
                Some(at) => at,
                None => {
                    let alike = groups.iter().filter(|group| group.model.weights == model.weights);
                    let known = alike.map(|group| &group.loaded);
                    let (loaded, stacks) = model.of(checkpoint, |checkpoint| {
                        let all = Stacks::load_sharing(checkpoint, known, model.dtype, device)?;
                        let (stacks, said) = all.rounding_inputs(model, checkpoint)?;
                        let new = |remark: &Remark| !remarks.contains(remark);
                        let new: Vec<_> = said.into_iter().filter(new).collect();
                        remarks.extend(new);
                        Ok((all, stacks))
                    })?;
                    groups.push(Group { model, loaded, stacks, sides: vec![] });
                    groups.len() - 1
                }
            };
            places.push((at, groups[at].sides.len()));
            groups[at].sides.push(side);
        }
        Ok(Self { groups, places, remarks })
    }

    /// What there is to say of how sides compute.
    pub fn remarks(&self) -> &[Remark] {
        &self.remarks
    }

    /// The model of a side, under its activation; of two stacks the decoder.
    pub fn model(&self, side: usize) -> Gemma {
        self.stacks(side).decoder
    }

    /// The model of a side, under its activation.
    pub(super) fn stacks(&self, side: usize) -> Stacks {
        let (group, place) = self.places[side];
        let Group { stacks, sides, .. } = &self.groups[group];
        stacks.of_side(sides[place])
    }

    /// The embedding of a text, of unit length, from a side's normed hidden states, `[1, seq, hidden]`: `[1, dim]`.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn embedding(&self, side: usize, hidden: &Tensor) -> Result<Tensor> {
        let gemma = &self.groups[self.places[side].0].stacks.decoder;
        Ok(Gemma::normalized(&gemma.pooled(hidden, None)?)?)
    }

    /// The block of a side in a layer.
    pub fn block(&self, side: usize, layer: usize) -> GemmaMlp {
        let (group, place) = self.places[side];
        self.groups[group].block(place, layer)
    }

    /// Whether two sides have dtype and weights in common, and with them projections.
    pub fn share(&self, a: usize, b: usize) -> bool {
        self.places[a].0 == self.places[b].0
    }

    /// How many sides there are.
    pub fn sides(&self) -> usize {
        self.places.len()
    }

    /// How many layers there are.
    pub fn layers(&self) -> usize {
        self.groups.first().map_or(0, |group| group.stacks.layers().count())
    }

    /// How many GELUs each side computes, all of which follow its activation.
    pub fn gates(&self) -> usize {
        self.groups.first().map_or(0, |group| group.stacks.gates())
    }

    /// How many of them are an encoder's.
    pub fn encoder_layers(&self) -> usize {
        self.groups.first().map_or(0, |group| group.stacks.encoder_layers())
    }

    /// Runs all sides on a text, and returns each side's normed hidden states, `[1, seq, hidden]`: [`Self::run_all`] of one.
    ///
    /// # Errors
    /// Those of [`Self::run_all`].
    pub fn run(
        &self,
        source: Option<&Tensor>,
        ids: &Tensor,
        lengths: &[usize],
        mut watch: impl FnMut(usize, usize, &[LaneStep]) -> Result<()>,
    ) -> Result<Vec<Tensor>> {
        let (source, ids, lengths) = (source.cloned(), ids.clone(), lengths.to_vec());
        let text = Text { source, ids, lengths };
        let watch = |_, layer, start, steps: &[LaneStep]| watch(layer, start, steps);
        Ok(self.run_all(&[text], watch)?.swap_remove(0))
    }

    /// Runs all sides on texts, each layer on all of them before the next: so weights that are read from a file are
    /// read once for all. Returns, for each text, each side's normed hidden states, `[1, seq, hidden]`.
    ///
    /// `watch` is handed every layer in pieces of 256 positions: the text's index, the layer's, the
    /// first position, and a step per side, which has none of the positions behind its end.
    ///
    /// # Errors
    /// An id out of the vocabulary, a source that is missing, those of `watch`.
    pub fn run_all(
        &self,
        texts: &[Text],
        mut watch: impl FnMut(usize, usize, usize, &[LaneStep]) -> Result<()>,
    ) -> Result<Vec<Vec<Tensor>>> {
        let encoded = self.encode(texts.iter().map(|text| text.source.as_ref()), &mut watch)?;
        let mut begun = vec![];
        for (text, encoded) in texts.iter().zip(&encoded) {
            let seq = text.ids.dim(1)?;
            let length = |at: usize| {
                let own = text.lengths.iter().zip(&self.places).filter(|(_, place)| place.0 == at);
                own.map(|(&length, _)| length).max().unwrap_or(0).min(seq)
            };
            let begin = |(at, group): (usize, &Group)| {
                let pass = group.pass(Pass::new(), encoded.get(at));
                group.begin(&group.stacks.decoder, &text.ids.narrow(1, 0, length(at))?, pass)
            };
            let groups = self.groups.iter().enumerate().map(begin);
            begun.push(Running::new(seq, groups.collect::<Result<_>>()?));
        }
        let layers = self.encoder_layers()..self.layers();
        let all = self.run_layers(layers, begun, &mut watch)?;
        let hidden = all.iter().map(|streams| {
            let normed = self.groups.iter().zip(streams);
            let normed = normed.map(|(group, x)| group.stacks.decoder.final_norm(x));
            let normed = normed.collect::<candle_core::Result<Vec<_>>>()?;
            self.places.iter().map(|&(group, at)| Ok(normed[group].narrow(0, at, 1)?)).collect()
        });
        hidden.collect()
    }

    /// Runs the encoder of all sides on sources `[1, seq]`; returns, for each, the states of each group's.
    fn encode<'a>(
        &self,
        sources: impl Iterator<Item = Option<&'a Tensor>>,
        watch: &mut impl FnMut(usize, usize, usize, &[LaneStep]) -> Result<()>,
    ) -> Result<Vec<Vec<Encoded>>> {
        let encoders = || self.groups.iter().filter_map(|g| Some((g, g.stacks.encoder.as_ref()?)));
        let mut begun = vec![];
        for source in sources {
            let Some(source) = source else {
                begun.push(Running::new(0, vec![]));
                continue;
            };
            let begin = |(group, encoder): (&Group, &Gemma)| {
                group.begin(encoder, source, group.pass(Pass::new(), None))
            };
            let groups = encoders().map(begin).collect::<Result<Vec<_>>>()?;
            begun.push(Running::new(source.dim(1)?, groups));
        }
        let all = self.run_layers(0..self.encoder_layers(), begun, watch)?;
        let states = all.iter().map(|streams| {
            let states = encoders().zip(streams);
            let encoded = |((_, encoder), x): ((_, &Gemma), &Tensor)| {
                Ok(Encoded::new(encoder.final_norm(x)?, None)?)
            };
            states.map(encoded).collect()
        });
        states.collect()
    }

    /// Some layers of all groups on all texts, from what enters the first to what leaves the last.
    fn run_layers(
        &self,
        layers: Range<usize>,
        mut texts: Vec<Running>,
        watch: &mut impl FnMut(usize, usize, usize, &[LaneStep]) -> Result<()>,
    ) -> Result<Vec<Vec<Tensor>>> {
        for layer in layers {
            for (index, Running { seq, streams, passes }) in texts.iter_mut().enumerate() {
                let mut watch = |start, steps: &[LaneStep]| watch(index, layer, start, steps);
                *streams = awake(|| self.run_layer(layer, streams, passes, *seq, &mut watch))?;
            }
        }
        Ok(texts.into_iter().map(|text| text.streams).collect())
    }

    /// One layer of all groups, from stream to stream.
    fn run_layer(
        &self,
        layer: usize,
        streams: &[Tensor],
        passes: &mut [Pass],
        seq: usize,
        watch: &mut impl FnMut(usize, &[LaneStep]) -> Result<()>,
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
            watch(start, &steps.collect::<Vec<_>>())?;
        }
        next.iter().map(|pieces| Ok(Tensor::cat(pieces, 1)?)).collect()
    }

    /// Runs the encoder on a source `[1, seq]`, to whose states all that is decoded with the caches attends.
    ///
    /// # Errors
    /// An id out of the vocabulary.
    pub fn begin(&self, source: &Tensor, caches: &mut Caches) -> Result<()> {
        let sources = [Some(source)].into_iter();
        caches.encoded = self.encode(sources, &mut |_, _, _, _| Ok(()))?.swap_remove(0);
        Ok(())
    }

    /// The logits that follow each side's ids, `[vocab]` each; every side has ids of its own, as
    /// many as the others, which follow those in the cache.
    ///
    /// # Errors
    /// An id out of the vocabulary, a model without a head, or with an encoder that has read nothing.
    pub fn next(&self, ids: &[Vec<u32>], caches: &mut Caches) -> Result<Vec<Tensor>> {
        let Caches { caches, encoded } = caches;
        caches.resize(self.groups.len(), Cache::default());
        let mut logits = vec![];
        for (at, (group, cache)) in self.groups.iter().zip(caches).enumerate() {
            let own = ids.iter().zip(&self.places).filter(|(_, place)| place.0 == at);
            let own: Vec<_> = own.map(|(ids, _)| ids.clone()).collect();
            logits.push(awake(|| group.next(&own, cache, encoded.get(at)))?);
        }
        self.places.iter().map(|&(group, at)| Ok(logits[group].get(at)?.get(0)?)).collect()
    }
}

/// The caches of a [`Lockstep`], empty at first, and what an encoder read before.
#[derive(Default)]
pub struct Caches {
    caches: Vec<Cache>,
    encoded: Vec<Encoded>,
}

/// A model in a dtype, with the weights of one that is there if their values are the same.
pub(crate) fn load_sharing<'a>(
    checkpoint: &Checkpoint,
    mut known: impl Iterator<Item = &'a Gemma>,
    dtype: DType,
    device: &Device,
) -> Result<Gemma> {
    match known.find(|other| shares(checkpoint, other.dtype(), dtype, device)) {
        Some(gemma) => Ok(gemma.with_dtype(dtype)),
        None => Ok(Gemma::load(checkpoint, device, dtype)?),
    }
}

impl Group {
    /// What enters a stack's first layer, once per side: `[sides, seq, …]`.
    fn begin<'a>(&self, gemma: &Gemma, ids: &Tensor, pass: Pass<'a>) -> Result<(Tensor, Pass<'a>)> {
        Ok(gemma.begin(&ids.repeat((self.sides.len(), 1))?, pass)?)
    }

    /// A pass in which each side has its own activation, and its own states of an encoder.
    fn pass<'a>(&self, pass: Pass<'a>, encoded: Option<&Encoded>) -> Pass<'a> {
        let pass = pass.with_gatings(self.gatings());
        match encoded {
            Some(encoded) => pass.with_encoded(encoded.clone()),
            None => pass,
        }
    }

    fn gatings(&self) -> Vec<Gating> {
        let gating = |side: &Side| Gating { activation: side.activation, rounding: side.rounding };
        self.sides.iter().map(gating).collect()
    }

    fn layer(&self, layer: usize) -> &Layer {
        self.stacks.layer(layer)
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
    fn next(
        &self,
        ids: &[Vec<u32>],
        cache: &mut Cache,
        encoded: Option<&Encoded>,
    ) -> Result<Tensor> {
        let (seq, decoder) = (ids.first().map_or(0, Vec::len), &self.stacks.decoder);
        let ids = Tensor::from_vec(ids.concat(), (ids.len(), seq), decoder.device())?;
        let pass = self.pass(Pass::with_cache(cache), encoded);
        let (mut x, mut pass) = decoder.begin(&ids, pass)?; // [sides, seq, …]
        let first = self.stacks.encoder_layers();
        for (index, layer) in decoder.layers().iter().enumerate() {
            let attended = layer.attend(&x, &mut pass)?;
            let projected = layer.mlp().project(&layer.mlp_input(&attended)?)?;
            let gated = (0..self.sides.len()).map(|place| {
                Ok(self.block(place, first + index).gated(&part(&projected, place)?)?)
            });
            let product = Tensor::cat(&gated.collect::<Result<Vec<_>>>()?, 0)?;
            x = layer.add_output(&attended, layer.mlp().down(&product)?)?;
        }
        let last = x.narrow(1, seq - 1, 1)?;
        Ok(decoder.logits(&decoder.final_norm(&last)?)?)
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
