//! An encoder beside the decoder: its windows, and attention to its states.

use super::Variation;
use crate::model::attention::CrossAttention;
use crate::model::encoder_decoder::EncoderDecoder;
use crate::model::gemma::Gemma;
use candle_core::Result;

impl EncoderDecoder {
    /// A model of these weights with one thing computed differently in both stacks, or in the one that has what the
    /// variation changes; `None` where neither has it, or both compute so already.
    ///
    /// # Errors
    /// Those of [`Gemma::varied`].
    pub fn varied(&self, variation: Variation) -> Result<Option<Self>> {
        let (encoder, decoder) =
            (self.encoder().varied(variation)?, self.decoder().varied(variation)?);
        let or_own = |varied: &Option<Gemma>, own: &Gemma| varied.as_ref().unwrap_or(own).clone();
        Ok((encoder.is_some() || decoder.is_some())
            .then(|| Self::of(or_own(&encoder, self.encoder()), or_own(&decoder, self.decoder()))))
    }
}

impl Gemma {
    /// A model with every attention to an encoder's states changed that is a sub-layer of its own.
    pub(super) fn map_cross(&self, mut change: impl FnMut(&mut CrossAttention)) -> Self {
        self.map_layers(|layer| {
            layer.cross.iter_mut().for_each(|cross| change(&mut cross.attention));
        })
    }

    pub(super) fn with_symmetric_window(&self) -> Option<Self> {
        self.attention_where(
            |attention| attention.sliding_window_behind.is_some(),
            |attention| {
                if let Some(behind) = attention.sliding_window_behind.take() {
                    attention.sliding_window = Some(behind);
                }
            },
        )
    }

    pub(super) fn with_encoder_keys_rotated(&self) -> Option<Self> {
        self.attention_where(
            |attention| attention.is_merged() && !attention.rotates_encoder_keys,
            |attention| attention.rotates_encoder_keys = true,
        )
    }
}
