//! An encoder's states, as a decoder sees them.

use super::padding::Padding;
use super::{KeyValues, Keys};
use crate::model::identity::Identity;
use candle_core::{D, DType, Result, Tensor};

/// What an encoder made of some texts, to which the decoder's layers attend.
#[derive(Debug, Clone)]
pub struct Encoded {
    states: Tensor,
    padding: Option<Padding>,
    identity: Identity,
}

impl Encoded {
    /// An encoder's normed states, `[batch, seq, hidden]`, and where they are padding.
    ///
    /// # Errors
    /// Padding of other texts.
    pub fn new(states: Tensor, padding: Option<Padding>) -> Result<Self> {
        let (batch, seq, _) = states.dims3()?;
        if seq == 0 {
            candle_core::bail!("an encoder's states of no token: there is nothing to attend to")
        }
        if let Some(padding) = &padding {
            padding.check(batch, seq)?;
        }
        Ok(Self { states, padding, identity: Identity::new() })
    }

    /// The states, `[batch, seq, hidden]`.
    pub fn states(&self) -> &Tensor {
        &self.states
    }

    /// Where they are padding, if they are anywhere.
    pub fn padding(&self) -> Option<&Padding> {
        self.padding.as_ref()
    }

    /// What tells them from the states of other texts.
    pub(in crate::model) fn identity(&self) -> Identity {
        self.identity
    }
}

/// An encoder's states in front of one layer of the decoder, with the keys and values that it has made of them, or will.
#[derive(Debug)]
pub struct EncoderKeys<'a> {
    /// The states.
    pub encoded: &'a Encoded,
    /// The layer's keys and values of them: made once and kept, or for the call.
    pub keys: Keys<'a>,
}

impl<'a> EncoderKeys<'a> {
    /// Where the keys and values are, or will be: in `own` if they are for the call.
    pub(super) fn place<'k>(self, batch: usize, own: &'k mut KeyValues) -> Result<Place<'k>>
    where
        'a: 'k,
    {
        let Self { encoded, keys } = self;
        if encoded.states.dim(0)? != batch {
            candle_core::bail!(
                "an encoder's states of {} texts for {batch} of the decoder",
                encoded.states.dim(0)?
            )
        }
        let kept = match keys {
            Keys::Own => {
                *own = KeyValues::once();
                own
            }
            Keys::Kept(kept) => kept,
            Keys::Shared(_) => {
                candle_core::bail!("keys and values of an encoder's states are no other layer's")
            }
        };
        Ok(Place { encoded, kept })
    }
}

/// States, and where a layer's keys and values of them are, or will be.
pub(super) struct Place<'a> {
    pub encoded: &'a Encoded,
    pub kept: &'a mut KeyValues,
}

impl Place<'_> {
    /// Whether the keys and values have been made.
    pub fn is_filled(&self) -> bool {
        self.kept.len() == self.encoded.states.dims()[1]
    }
}

/// Keys and values of an encoder's states that are all seen, but for padding: `[batch, kv_heads, keys, head_dim]`.
pub(super) struct SeenAll<'a> {
    pub keys: Tensor,
    pub values: Tensor,
    padding: Option<&'a Padding>,
}

impl<'a> SeenAll<'a> {
    /// Those that have been made.
    pub fn of(place: Place<'a>, kv_heads: usize) -> Result<Self> {
        let (keys, values) = place.kept.tensors(kv_heads)?;
        Ok(Self { keys, values, padding: place.encoded.padding() })
    }

    /// The mask of so many queries, `[queries, keys]` or `[batch, 1, queries, keys]`, in f32.
    pub fn mask(&self, queries: usize) -> Result<Tensor> {
        let (keys, device) = (self.keys.dim(2)?, self.keys.device());
        match self.padding {
            None => Tensor::zeros((queries, keys), DType::F32, device),
            Some(padding) => {
                padding.mask(device)?.broadcast_as((padding.batch(), 1, queries, keys))
            }
        }
    }

    /// A mask of other keys, with these behind them.
    pub fn beside(&self, mask: &Tensor) -> Result<Tensor> {
        let own = self.mask(mask.dim(D::Minus2)?)?;
        let batch = |mask: &Tensor| if mask.rank() == 4 { mask.dims()[0] } else { 1 };
        let texts = batch(mask).max(batch(&own));
        let widened = |mask: &Tensor| {
            let (queries, keys) = (mask.dim(D::Minus2)?, mask.dim(D::Minus1)?);
            mask.broadcast_as((texts, 1, queries, keys))?.contiguous()
        };
        Tensor::cat(&[widened(mask)?, widened(&own)?], 3)
    }
}
