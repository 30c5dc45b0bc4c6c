//! What a model keeps of the tokens so far.

use super::attention::KeyValues;
use super::identity::Identity;
use super::recurrent::RecurrentState;
use std::collections::BTreeMap;

/// Keys and values of the tokens so far, and the states of recurrences, for [`super::Gemma::forward_cached`]. They belong to the
/// model that began
/// them, and to its clones; the same weights under another activation, rounding or dtype are another
/// model.
#[derive(Debug, Clone, Default)]
pub struct Cache {
    pub(super) owner: Option<Identity>,
    /// The states of an encoder that its keys and values are of.
    pub(super) encoded: Option<Identity>,
    layers: Vec<KeyValues>,
    /// Of the encoder's states.
    encoder: Vec<KeyValues>,
    states: BTreeMap<usize, RecurrentState>,
}

impl Cache {
    /// The cache of a layer, made when it is first asked for.
    pub fn layer(&mut self, index: usize) -> &mut KeyValues {
        entry(&mut self.layers, index)
    }

    /// The cache of a layer, or of the one that it shares keys and values with, and that of an encoder's states.
    pub(super) fn layer_and_encoder(
        &mut self,
        index: usize,
        shares: Option<usize>,
    ) -> (&mut KeyValues, &mut KeyValues) {
        let own = entry(&mut self.layers, shares.unwrap_or(index));
        (own, entry(&mut self.encoder, index))
    }

    /// The state of a layer's recurrence, made when it is first asked for.
    pub fn state(&mut self, index: usize) -> &mut RecurrentState {
        self.states.entry(index).or_default()
    }
}

fn entry(all: &mut Vec<KeyValues>, index: usize) -> &mut KeyValues {
    if all.len() <= index {
        all.resize(index + 1, KeyValues::default());
    }
    &mut all[index]
}
