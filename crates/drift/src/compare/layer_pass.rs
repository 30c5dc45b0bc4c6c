//! One layer, point by point, of which some may be given: what is not given is computed from what is.
//!
//! This is all that comparing needs of a model. With nothing given it is the model's own pass. With a
//! dump's points given, each is computed from the dump's own numbers before it, so that an early mistake
//! does not colour what follows.

use super::point::Place;
use crate::error::{Error, Result};
use candle_core::{DType, Module, Tensor};
use gemma_mlp::internal::wide_dtype;
use gemma_mlp::mlp::GateUp;
use gemma_mlp::model::{
    Attended, Attention, ExpertsBranch, Gemma, KeyValues, Keys, Layer, Leaving, Pass,
    PerLayerBlock, RmsNorm,
};
use std::collections::BTreeMap;

/// Numbers at the places of a layer, `[1, positions, …]`.
pub(super) type Values = BTreeMap<Place, Tensor>;

/// What goes from layer to layer.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    /// The residual stream, `[1, positions, hidden]`, or several side by side.
    pub(super) stream: Tensor,
    /// What the layers get beside it, `[1, positions, layers, size]`, in families that have it.
    per_layer_inputs: Option<Tensor>,
    /// Keys and values that later layers use, by the layer that made them.
    lent: BTreeMap<usize, KeyValues>,
}

impl Flow {
    /// What enters the first layer, of ids `[1, positions]`.
    pub(super) fn begin(gemma: &Gemma, ids: &Tensor) -> Result<Self> {
        let (stream, pass) = gemma.begin(ids, Pass::new())?;
        let per_layer_inputs = pass.per_layer_inputs().cloned();
        Ok(Self { stream, per_layer_inputs, lent: BTreeMap::new() })
    }

    /// The same with another residual stream.
    pub(super) fn with_stream(&self, stream: Tensor) -> Self {
        Self { stream, ..self.clone() }
    }

    /// Gives the keys and values of a layer, `[1, positions, kv_heads, head_dim]` each, for a model in a dtype.
    pub(super) fn lend(&mut self, layer: usize, theirs: [&Tensor; 2], dtype: DType) -> Result<()> {
        self.lent.insert(layer, keys_values(theirs, dtype)?);
        Ok(())
    }

    /// Goes on behind a layer.
    pub(super) fn follow(&mut self, Left { layer, stream, lent }: Left) {
        self.stream = stream;
        self.lent.extend(lent.map(|keys| (layer, keys)));
    }
}

/// Keys and values `[1, positions, kv_heads, head_dim]` as layers of a model in a dtype share them.
fn keys_values([k, v]: [&Tensor; 2], dtype: DType) -> Result<KeyValues> {
    let heads_first = |x: &Tensor| x.to_dtype(wide_dtype(dtype))?.transpose(1, 2)?.contiguous();
    Ok(KeyValues::of(heads_first(k)?, heads_first(v)?))
}

/// What leaves a layer.
pub(super) struct Left {
    layer: usize,
    stream: Tensor,
    lent: Option<KeyValues>,
}

/// A layer in the middle of a pass.
pub(super) struct LayerPass<'a> {
    layer: &'a Layer,
    dtype: DType,
    /// The residual stream that enters it.
    stream: &'a Tensor,
    pass: Pass<'static>,
    given: &'a Values,
    computed: Values,
}

/// How far apart, over their size, two probabilities may be that count as equal where experts are chosen: what rounding
/// in f32 leaves open.
const TIE: f64 = 1e-6;

/// Whether a layer has a place: one with a recurrence in place of attention has no queries.
pub(super) fn has(layer: &Layer, place: Place) -> bool {
    match place {
        Place::Router | Place::Routing | Place::ExpertsOutput => layer.experts().is_some(),
        Place::PerLayerGate | Place::PerLayerProduct | Place::PerLayerOutput => {
            layer.per_layer().is_some()
        }
        Place::Queries | Place::Keys | Place::Values => layer.attention().is_some(),
        _ => true,
    }
}

impl<'a> LayerPass<'a> {
    /// Of a model in a dtype; `given` may have any floating-point dtype.
    pub(super) fn new(layer: &'a Layer, dtype: DType, flow: &'a Flow, given: &'a Values) -> Self {
        let mut pass = Pass::new();
        pass.set_per_layer_inputs(flow.per_layer_inputs.clone());
        if let Some(lender) = layer.attention().and_then(Attention::shares)
            && let Some(keys) = flow.lent.get(&lender)
        {
            pass.lend(lender, keys.clone());
        }
        Self { layer, dtype, stream: &flow.stream, pass, given, computed: Values::new() }
    }

    /// What leaves the layer.
    pub(super) fn leave(mut self) -> Result<Left> {
        let (layer, stream) = (self.layer.index(), self.value(Place::Hidden)?);
        Ok(Left { layer, stream, lent: self.lent()? })
    }

    /// The keys and values that later layers use, if any do.
    fn lent(&mut self) -> Result<Option<KeyValues>> {
        if !self.layer.lends() {
            return Ok(None);
        }
        if !self.gives(&[Place::Keys, Place::Values])
            && let Some(keys) = self.pass.lent(self.layer.index())
        {
            return Ok(Some(keys.clone()));
        }
        let (k, v) = (self.value(Place::Keys)?, self.value(Place::Values)?);
        Ok(Some(keys_values([&k, &v], self.dtype)?))
    }

    /// What counts at a place for those behind it: what is given, or else computed.
    pub(super) fn value(&mut self, place: Place) -> Result<Tensor> {
        match self.given.get(&place) {
            // What chooses is never rounded.
            Some(given) if matches!(place, Place::Router | Place::Routing) => {
                Ok(given.to_dtype(wide_dtype(self.dtype))?)
            }
            Some(given) => Ok(given.to_dtype(self.dtype)?),
            None => self.computed(place),
        }
    }

    /// What the layer computes at a place, whether it is given or not, from what counts before it.
    pub(super) fn computed(&mut self, place: Place) -> Result<Tensor> {
        if let Some(computed) = self.computed.get(&place) {
            return Ok(computed.clone());
        }
        let value = self.compute(place)?;
        self.computed.insert(place, value.clone());
        Ok(value)
    }

    fn compute(&mut self, place: Place) -> Result<Tensor> {
        let layer = self.layer;
        Ok(match place {
            Place::AttnInput => layer.attention_input(&self.entered()?.stream)?,
            Place::Queries => self.project(0)?,
            Place::Keys => self.project(1)?,
            Place::Values => self.project(2)?,
            Place::AttnOutput if self.gives(&[Place::Queries, Place::Keys, Place::Values]) => {
                let [q, k, v] = [Place::Queries, Place::Keys, Place::Values];
                let qkv = [self.value(q)?, self.value(k)?, self.value(v)?];
                self.attention()?.forward_projected(&qkv, self.dtype)?
            }
            Place::AttnOutput => {
                let input = self.value(Place::AttnInput)?;
                layer.attention_output(&input, &mut self.pass)?
            }
            Place::AttnNormed => {
                let output = self.value(Place::AttnOutput)?;
                normed(layer.post_attention_norm(), output)?
            }
            Place::Attended => {
                let (stream, input) = (self.entered()?.stream, self.value(Place::AttnInput)?);
                if self.gives(&[Place::AttnNormed]) {
                    let sum = (&stream + self.value(Place::AttnNormed)?)?;
                    layer.beside_attention(&stream, &input, sum)?
                } else {
                    layer.add_attention(&stream, &input, self.value(Place::AttnOutput)?)?
                }
            }
            Place::MlpInput => {
                let attended = self.attended()?;
                layer.mlp_input(&attended)?
            }
            Place::Gate => self.gate_up()?.gate,
            Place::Up => self.gate_up()?.up,
            Place::Activated => layer.mlp().activate(&self.value(Place::Gate)?)?,
            Place::Product if self.gives(&[Place::Activated]) => {
                (self.value(Place::Activated)? * self.value(Place::Up)?)?
            }
            Place::Product => {
                let (gate, up) = (self.value(Place::Gate)?, self.value(Place::Up)?);
                layer.mlp().gated(&GateUp { gate, up })?
            }
            Place::MlpOutput if self.knows_inside_of_mlp() => {
                layer.mlp().down(&self.value(Place::Product)?)?
            }
            Place::MlpOutput => {
                let input = self.value(Place::MlpInput)?;
                layer.mlp().forward(&input)?
            }
            Place::Router => self.experts()?.probabilities(&self.value(Place::Attended)?)?,
            Place::Routing => {
                let probabilities = self.value(Place::Router)?;
                // Of equal probabilities either may be chosen: what theirs chose is.
                let order = match self.given.get(&Place::Routing) {
                    Some(theirs) => {
                        let chosen = theirs.ne(0f64)?.to_dtype(probabilities.dtype())?;
                        (&probabilities * ((chosen * TIE)? + 1.0)?)?
                    }
                    None => probabilities.clone(),
                };
                self.experts()?.weights(&probabilities, &order)?
            }
            Place::ExpertsOutput if self.gives(&[Place::Router, Place::Routing]) => {
                let (attended, weights) =
                    (self.value(Place::Attended)?, self.value(Place::Routing)?);
                self.experts()?.weighted_output(&attended, &weights)?
            }
            Place::ExpertsOutput => self.experts()?.output(&self.value(Place::Attended)?, &[])?,
            Place::MlpNormed => {
                let joined = self.joined()?;
                normed(layer.post_mlp_norm(), joined)?
            }
            Place::PerLayerGate => {
                let leaving = self.leaving()?;
                self.per_layer()?.gate().project(&leaving.active)?
            }
            Place::PerLayerProduct => {
                let (gate, entered) = (self.value(Place::PerLayerGate)?, self.entered()?);
                self.per_layer()?.gate().gated(&gate, layer.per_layer_input(&entered)?)?
            }
            Place::PerLayerOutput => {
                let (product, block) = (self.value(Place::PerLayerProduct)?, self.per_layer()?);
                block.norm().forward(&block.gate().out(&product)?)?
            }
            Place::Hidden => {
                let leaving = self.leaving()?;
                let addition = match layer.per_layer() {
                    Some(_) => Some(self.value(Place::PerLayerOutput)?),
                    None => None,
                };
                layer.leave(leaving, addition.as_ref())?
            }
        })
    }

    /// What the block returns, joined by what experts return.
    fn joined(&mut self) -> Result<Tensor> {
        let output = self.value(Place::MlpOutput)?;
        match self.layer.experts() {
            Some(branch) => Ok(branch.join(&output, &self.value(Place::ExpertsOutput)?)?),
            None => Ok(output),
        }
    }

    /// The layer behind its MLP.
    fn leaving(&mut self) -> Result<Leaving> {
        let attended = self.attended()?;
        let stream = match self.gives(&[Place::MlpNormed]) {
            true => (&attended.stream + self.value(Place::MlpNormed)?)?,
            false => self.layer.add_mlp(&attended, self.joined()?)?,
        };
        Ok(self.layer.correct(&attended, stream)?)
    }

    fn experts(&self) -> Result<&'a ExpertsBranch> {
        self.layer.experts().ok_or_else(|| self.lacks("experts"))
    }

    fn per_layer(&self) -> Result<&'a PerLayerBlock> {
        self.layer.per_layer().ok_or_else(|| self.lacks("input of its own"))
    }

    fn lacks(&self, what: &str) -> Error {
        candle_core::Error::Msg(format!("layer {} has no {what}", self.layer.index())).into()
    }

    /// The layer in front of its attention.
    fn entered(&self) -> Result<Attended> {
        Ok(self.layer.enter(self.stream, &self.pass)?)
    }

    /// The layer behind its attention.
    fn attended(&mut self) -> Result<Attended> {
        Ok(self.entered()?.with_stream(self.value(Place::Attended)?))
    }

    fn gives(&self, places: &[Place]) -> bool {
        places.iter().any(|place| self.given.contains_key(place))
    }

    /// Whether something inside of the block is given or computed already, so that its output is computed from
    /// there.
    fn knows_inside_of_mlp(&self) -> bool {
        let inside = [Place::Gate, Place::Up, Place::Activated, Place::Product];
        self.gives(&inside) || inside.iter().any(|place| self.computed.contains_key(place))
    }

    fn attention(&self) -> Result<&Attention> {
        let index = self.layer.index();
        self.layer.attention().ok_or(Error::Recurrent { layer: index })
    }

    /// Queries, keys or values; all three are made at once.
    fn project(&mut self, which: usize) -> Result<Tensor> {
        let input = self.value(Place::AttnInput)?;
        let attention = self.attention()?;
        let keys = match attention.shares() {
            None => Keys::Own,
            Some(lender) => match self.pass.lent(lender) {
                Some(keys) => Keys::Shared(keys),
                None => return Err(self.lacks(&format!("keys of layer {lender} in this pass"))),
            },
        };
        let all = attention.project(&input, keys)?;
        let places = [Place::Queries, Place::Keys, Place::Values];
        let wanted = all[which].clone();
        self.computed.extend(places.into_iter().zip(all));
        Ok(wanted)
    }

    /// Gate and up, which are made at once.
    fn gate_up(&mut self) -> Result<GateUp> {
        let input = self.value(Place::MlpInput)?;
        let both = self.layer.mlp().project(&input)?;
        self.computed.insert(Place::Gate, both.gate.clone());
        self.computed.insert(Place::Up, both.up.clone());
        Ok(both)
    }
}

fn normed(norm: Option<&RmsNorm>, x: Tensor) -> Result<Tensor> {
    Ok(match norm {
        Some(norm) => norm.forward(&x)?,
        None => x,
    })
}
