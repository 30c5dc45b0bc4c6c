//! What layers hand to one another beside the residual stream.

use super::attention::{Encoded, EncoderKeys, KeyValues, Keys, Padding};
use super::cache::Cache;
use super::recurrent::RecurrentState;
use crate::mlp::Gating;
use candle_core::{Result, Tensor};
use std::collections::BTreeMap;

/// One pass through the layers of a model: keys and values, of the tokens so far and of layers that others share; the
/// layers' own inputs beside the residual stream; and which activation each text of the batch gets.
///
/// [`super::Gemma::begin`] makes the one that a model's layers need. A layer alone that shares nothing takes an empty
/// one.
#[derive(Debug, Default)]
pub struct Pass<'a> {
    cache: Option<&'a mut Cache>,
    /// Of a pass without a cache: keys and values that later layers share, by layer.
    lent: BTreeMap<usize, KeyValues>,
    /// `[batch, seq, layers, size]`.
    per_layer_inputs: Option<Tensor>,
    gatings: Vec<Gating>,
    restarts: Vec<Vec<usize>>,
    padding: Option<Padding>,
    encoded: Option<Encoded>,
}

/// A layer's keys and values in a pass.
pub(super) struct LayerKeys<'a> {
    /// Of its own text, if they were asked for.
    pub(super) own: Keys<'a>,
    /// Of an encoder's states, where there are some.
    pub(super) encoder: Option<EncoderKeys<'a>>,
    /// Which positions of the texts are padding.
    pub(super) padding: Option<&'a Padding>,
}

impl<'a> Pass<'a> {
    /// One that begins with the tokens that are handed to it.
    pub fn new() -> Self {
        Self::default()
    }

    /// One whose tokens follow those in a cache, to which they are added.
    pub fn with_cache(cache: &'a mut Cache) -> Self {
        Self { cache: Some(cache), ..Self::default() }
    }

    /// One whose batch has an equal part for each of some activations, one after the other; of no activations, the
    /// layers' own.
    ///
    /// It holds for every gated function that is not in the block ([`super::Layer::mlp`]) itself, of which the caller
    /// takes care.
    pub fn with_gatings(self, gatings: Vec<Gating>) -> Self {
        Self { gatings, ..self }
    }

    /// One whose texts have padding in some places, which no query sees. For texts that are seen from both sides.
    pub fn with_padding(self, padding: Option<Padding>) -> Self {
        Self { padding, ..self }
    }

    /// Which positions of its texts are padding, if any is.
    pub fn padding(&self) -> Option<&Padding> {
        self.padding.as_ref()
    }

    /// One through a decoder's layers, which attend to an encoder's states.
    pub fn with_encoded(self, encoded: Encoded) -> Self {
        Self { encoded: Some(encoded), ..self }
    }

    /// One whose texts are several each: for each text of the batch the positions, from 1 on and rising, where another
    /// begins. There positions count from 0 again, attention sees nothing before, and recurrences begin anew, as in
    /// transformers where `position_ids` do so; only the convolutions in front of recurrences see across.
    ///
    /// Layers refuse it in a pass with a cache, and where layers share keys and values.
    pub fn with_restarts(self, restarts: Vec<Vec<usize>>) -> Self {
        Self { restarts, ..self }
    }

    /// Where in each text of the batch another one begins; empty for nowhere.
    pub fn restarts(&self) -> &[Vec<usize>] {
        &self.restarts
    }

    pub(super) fn has_cache(&self) -> bool {
        self.cache.is_some()
    }

    /// The state of a layer's recurrence, in a pass with a cache, and where texts begin anew.
    pub(super) fn state(
        &mut self,
        layer: usize,
    ) -> Result<(Option<&mut RecurrentState>, &[Vec<usize>])> {
        if self.cache.is_some() && !self.restarts.is_empty() {
            candle_core::bail!("texts that begin anew in a pass with a cache")
        }
        Ok((self.cache.as_mut().map(|cache| cache.state(layer)), &self.restarts))
    }

    /// Gives what the layers get beside the residual stream, `[batch, seq, layers, size]`, in families that have it.
    pub fn set_per_layer_inputs(&mut self, inputs: Option<Tensor>) {
        self.per_layer_inputs = inputs;
    }

    /// What all layers get beside the residual stream, `[batch, seq, layers, size]`, in families that have it.
    pub fn per_layer_inputs(&self) -> Option<&Tensor> {
        self.per_layer_inputs.as_ref()
    }

    /// What a layer gets beside the residual stream, `[batch, seq, size]`, in families that have it.
    ///
    /// # Errors
    /// A layer beyond the last one.
    pub fn per_layer_input(&self, layer: usize) -> Result<Option<Tensor>> {
        self.per_layer_inputs.as_ref().map(|all| all.narrow(2, layer, 1)?.squeeze(2)).transpose()
    }

    /// The activations of the parts of the batch; empty for the layers' own.
    pub fn gatings(&self) -> &[Gating] {
        &self.gatings
    }

    /// Gives the keys and values of a layer that others share.
    pub fn lend(&mut self, layer: usize, keys: KeyValues) {
        self.lent.insert(layer, keys);
    }

    /// The keys and values that a layer has lent so far in a pass without a cache.
    pub fn lent(&self, layer: usize) -> Option<&KeyValues> {
        self.lent.get(&layer)
    }

    /// The keys and values of a layer: of its own text those of the layer that it shares them with, or its own, which are
    /// kept if there is a cache, or if it lends them; and those of an encoder's states.
    pub(super) fn keys(
        &mut self,
        layer: usize,
        shares: Option<usize>,
        lends: bool,
    ) -> Result<LayerKeys<'_>> {
        let (padding, encoded) = (self.padding.as_ref(), self.encoded.as_ref());
        let (cache, of_encoder) = match &mut self.cache {
            Some(cache) => {
                let (own, encoder) = cache.layer_and_encoder(layer, shares);
                (Some(own), Keys::Kept(encoder))
            }
            None => (None, Keys::Own),
        };
        let own = match (shares, cache) {
            (Some(_), Some(earlier)) => Keys::Shared(earlier),
            (Some(earlier), None) => match self.lent.get(&earlier) {
                Some(keys) => Keys::Shared(keys),
                None => candle_core::bail!(
                    "layer {layer} shares the keys and values of layer {earlier}, which has not run in this pass"
                ),
            },
            (None, Some(own)) => Keys::Kept(own),
            (None, None) if lends => {
                let kept = self.lent.entry(layer).or_default();
                *kept = KeyValues::once();
                Keys::Kept(kept)
            }
            (None, None) => Keys::Own,
        };
        let encoder = encoded.map(|encoded| EncoderKeys { encoded, keys: of_encoder });
        Ok(LayerKeys { own, encoder, padding })
    }

    /// The keys and values of an encoder's states in a layer.
    ///
    /// # Errors
    /// A pass without an encoder's states.
    pub fn encoder_keys(&mut self, layer: usize) -> Result<EncoderKeys<'_>> {
        match self.keys(layer, None, false)?.encoder {
            Some(encoder) => Ok(encoder),
            None => candle_core::bail!(
                "layer {layer} attends to an encoder's states, and there are none in this pass"
            ),
        }
    }
}
