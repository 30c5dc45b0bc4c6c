//! One layer, point by point, of which some may be given: what is not given is computed from what is.
//!
//! This is all that comparing needs of a model. With nothing given it is the model's own pass. With a
//! dump's points given, each is computed from the dump's own numbers before it, so that an early mistake
//! does not colour what follows.

use super::point::Place;
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};
use gemma_mlp::mlp::GateUp;
use gemma_mlp::model::{Attended, Attention, Keys, Layer, Pass};
use std::collections::BTreeMap;

/// Numbers at the places of a layer, `[1, positions, …]`.
pub(super) type Values = BTreeMap<Place, Tensor>;

/// A layer in the middle of a pass.
pub(super) struct LayerPass<'a> {
    layer: &'a Layer,
    dtype: DType,
    /// The residual stream that enters it.
    stream: &'a Tensor,
    given: &'a Values,
    computed: Values,
}

impl<'a> LayerPass<'a> {
    /// Of a model in a dtype; `given` may have any floating-point dtype.
    pub(super) fn new(
        layer: &'a Layer,
        dtype: DType,
        stream: &'a Tensor,
        given: &'a Values,
    ) -> Self {
        Self { layer, dtype, stream, given, computed: Values::new() }
    }

    /// What counts at a place for those behind it: what is given, or else computed.
    pub(super) fn value(&mut self, place: Place) -> Result<Tensor> {
        match self.given.get(&place) {
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
                layer.attention_output(&input, &mut Pass::new())?
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
                candle_core::Module::forward(layer.mlp(), &input)?
            }
            Place::MlpNormed => {
                let output = self.value(Place::MlpOutput)?;
                normed(layer.post_mlp_norm(), output)?
            }
            Place::Hidden => {
                let attended = self.attended()?;
                if self.gives(&[Place::MlpNormed]) {
                    let sum = (&attended.stream + self.value(Place::MlpNormed)?)?;
                    layer.leave(&attended, sum)?
                } else {
                    layer.add_output(&attended, self.value(Place::MlpOutput)?)?
                }
            }
        })
    }

    /// The layer in front of its attention.
    fn entered(&self) -> Result<Attended> {
        Ok(self.layer.enter(self.stream, &Pass::new())?)
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

    /// Whether the layer computes a place: one with a recurrence in place of attention has no queries.
    pub(super) fn has(&self, place: Place) -> bool {
        let of_attention = [Place::Queries, Place::Keys, Place::Values].contains(&place);
        !of_attention || self.layer.attention().is_some()
    }

    fn attention(&self) -> Result<&Attention> {
        let index = self.layer.index();
        self.layer.attention().ok_or(Error::Recurrent { layer: index })
    }

    /// Queries, keys or values; all three are made at once.
    fn project(&mut self, which: usize) -> Result<Tensor> {
        let input = self.value(Place::AttnInput)?;
        let all = self.attention()?.project(&input, Keys::Own)?;
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

fn normed(norm: Option<&gemma_mlp::model::RmsNorm>, x: Tensor) -> Result<Tensor> {
    Ok(match norm {
        Some(norm) => candle_core::Module::forward(norm, &x)?,
        None => x,
    })
}
