//! A model of one stack of layers, or of an encoder's and a decoder's.

use super::side::{Model, Side};
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use gemma_mlp::checkpoint::{Remark, Storage};
use gemma_mlp::internal::should_pack;
use gemma_mlp::model::{Encoded, EncoderDecoder, Gemma, Head, Layer, Pass, Variation};
use gemma_mlp::{Activation, Checkpoint};

/// A decoder, and perhaps an encoder to whose states it attends.
#[derive(Clone)]
pub(super) struct Stacks {
    pub(super) encoder: Option<Gemma>,
    pub(super) decoder: Gemma,
}

impl Stacks {
    /// Loads a checkpoint's model in a dtype.
    ///
    /// # Errors
    /// Those of [`Gemma::load`].
    pub(super) fn load(checkpoint: &Checkpoint, dtype: DType, device: &Device) -> Result<Self> {
        if checkpoint.config().encoder().is_none() {
            let decoder = Gemma::load(checkpoint, device, dtype)?;
            return Ok(Self { encoder: None, decoder });
        }
        let both = EncoderDecoder::load(checkpoint, device, dtype)?;
        Ok(Self { encoder: Some(both.encoder().clone()), decoder: both.decoder().clone() })
    }

    /// A model in a dtype, with the weights of one that is there if their values are the same.
    pub(super) fn load_sharing<'a>(
        checkpoint: &Checkpoint,
        known: impl Iterator<Item = &'a Self>,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let mut known = known;
        match known.find(|other| shares(checkpoint, other.dtype(), dtype, device)) {
            Some(stacks) => Ok(stacks.map(|gemma| gemma.with_dtype(dtype))),
            None => Self::load(checkpoint, dtype, device),
        }
    }

    fn map(&self, change: impl Fn(&Gemma) -> Gemma) -> Self {
        Self { encoder: self.encoder.as_ref().map(&change), decoder: change(&self.decoder) }
    }

    /// The model with its packed matrices as constants to a backward pass.
    pub(super) fn frozen(&self) -> Self {
        self.map(Gemma::frozen)
    }

    /// The model under a side's activation and rounding.
    pub(super) fn of_side(&self, side: Side) -> Self {
        let activation: Activation = side.activation;
        self.map(|gemma| gemma.with_activation(activation).with_rounding(side.rounding))
    }

    /// The model with inputs of products rounded to 8 bits, if it is to be, and what there is to say of that.
    ///
    /// # Errors
    /// Weights that are not quantised; an encoder and a decoder.
    pub(super) fn rounding_inputs(
        &self,
        model: Model,
        checkpoint: &Checkpoint,
    ) -> Result<(Self, Vec<Remark>)> {
        if !model.q8_activations {
            return Ok((self.clone(), vec![]));
        }
        let in_blocks = |storage| matches!(storage, Storage::Blocks(_));
        if !checkpoint.tensors().entries().any(|(.., storage)| in_blocks(storage)) {
            return Err(Error::NoBlocks);
        }
        let (decoder, remarks) = self.decoder.with_inputs_as_stored(checkpoint)?;
        Ok((Self { decoder, ..self.clone() }, remarks))
    }

    /// It under several variations, each in whichever stack has what it changes; `None` if none applies to either.
    pub(super) fn varied(&self, variations: &[Variation]) -> Result<Option<Self>> {
        let encoder = match &self.encoder {
            Some(encoder) => varied(encoder, variations)?,
            None => None,
        };
        let decoder = varied(&self.decoder, variations)?;
        Ok((encoder.is_some() || decoder.is_some()).then(|| Self {
            encoder: encoder.or_else(|| self.encoder.clone()),
            decoder: decoder.unwrap_or_else(|| self.decoder.clone()),
        }))
    }

    pub(super) fn dtype(&self) -> DType {
        self.decoder.dtype()
    }

    pub(super) fn device(&self) -> &Device {
        self.decoder.device()
    }

    pub(super) fn head(&self) -> Option<&Head> {
        self.decoder.head()
    }

    /// How many layers its encoder has.
    pub(super) fn encoder_layers(&self) -> usize {
        self.encoder.as_ref().map_or(0, |encoder| encoder.layers().len())
    }

    /// All layers, the encoder's first.
    pub(super) fn layers(&self) -> impl Iterator<Item = &Layer> {
        let encoder = self.encoder.iter().flat_map(|encoder| encoder.layers());
        encoder.chain(self.decoder.layers())
    }

    /// How many GELUs follow the activation.
    pub(super) fn gates(&self) -> usize {
        self.layers().map(Layer::gates).sum()
    }

    /// The layer with an index, counted over both stacks.
    pub(super) fn layer(&self, index: usize) -> &Layer {
        let encoder = self.encoder.as_ref();
        let of_encoder = encoder.and_then(|encoder| encoder.layers().get(index));
        of_encoder.unwrap_or_else(|| &self.decoder.layers()[index - self.encoder_layers()])
    }

    /// The decoder's normed hidden states of ids, `[1, seq]` to `[1, seq, hidden]`, beside the encoder's of a source.
    pub(super) fn hidden(&self, source: Option<&Tensor>, ids: &Tensor) -> Result<Tensor> {
        let pass = match (&self.encoder, source) {
            (Some(encoder), Some(source)) => {
                Pass::new().with_encoded(Encoded::new(encoder.hidden(source, &mut ())?, None)?)
            }
            _ => Pass::new(),
        };
        Ok(self.decoder.hidden_in(pass, ids, &mut ())?)
    }
}

/// A model under several variations, of which those that do not apply change nothing; `None` if none applies.
pub(crate) fn varied(reference: &Gemma, variations: &[Variation]) -> Result<Option<Gemma>> {
    let mut varied = None;
    for &variation in variations {
        let model = varied.as_ref().unwrap_or(reference);
        varied = model.varied(variation)?.or(varied);
    }
    Ok(varied)
}

/// Whether a model in one dtype has the weights of another in another.
pub(super) fn shares(checkpoint: &Checkpoint, other: DType, dtype: DType, device: &Device) -> bool {
    let exact = |dtype| checkpoint.tensors().are_exact_in(dtype);
    let packs = |dtype| should_pack(dtype, device) || checkpoint.is_streamed();
    let held_alike = other == dtype || (packs(other) && packs(dtype));
    exact(other) && exact(dtype) && held_alike
}
