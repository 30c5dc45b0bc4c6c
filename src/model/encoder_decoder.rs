//! An encoder and a decoder that attends to its states: T5Gemma 1 and 2.

use super::attention::{Encoded, Padding};
use super::cache::Cache;
use super::gemma::{Builders, Gemma, Hold, Table};
use super::observer::{Block, Observer};
use super::pass::Pass;
use crate::checkpoint::Config;
use crate::kernels::activation::Activation;
use crate::kernels::threads::awake;
use crate::rounding::Rounding;
use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;

/// An encoder, which sees its whole text, and a decoder, which sees its own text so far and the encoder's states.
///
/// Each is a [`Gemma`], the encoder one without a head. Cloning it, or switching its activation, copies no weights.
///
/// ```no_run
/// use candle_core::{DType, Device, Tensor};
/// use gemma_mlp::{Checkpoint, EncoderDecoder};
///
/// let checkpoint = Checkpoint::open("t5gemma-2-270m-270m")?;
/// let model = EncoderDecoder::load(&checkpoint, &Device::Cpu, DType::F32)?;
/// let question = Tensor::new(vec![checkpoint.encode("The fox")?], &Device::Cpu)?; // [batch, seq]
/// let start = Tensor::new(&[[checkpoint.config().bos_token_id]], &Device::Cpu)?;
/// let logits = model.forward(&question, None, &start)?; // [batch, 1, vocab]
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct EncoderDecoder {
    encoder: Gemma,
    decoder: Gemma,
}

impl EncoderDecoder {
    /// A model out of a `VarBuilder`, as [`Gemma::new`] makes one: the encoder's tensors under `model.encoder`, the
    /// decoder's under `model.decoder`, and `lm_head.out_proj` where the head is no embedding.
    ///
    /// # Errors
    /// Those of [`Gemma::new`]; a config without an encoder.
    pub fn new(config: &Config, dtype: DType, vb: VarBuilder) -> Result<Self> {
        let [encoder, decoder] = &config.stacks[..] else {
            candle_core::bail!("a config without an encoder beside the decoder")
        };
        let of = |stack, name, table: Option<_>| {
            let backbone = vb.pp("model").pp(name);
            let own = backbone.pp("embed_tokens");
            let builders = Builders {
                backbone,
                embedding: table.map_or(Table::Read(own.clone(), own), Table::Shared),
                head: vb.pp("lm_head").pp("out_proj"),
                per_layer_table: None,
            };
            Gemma::from_parts(stack, dtype, builders, &Hold::Tensors)
        };
        let encoder = of(encoder, "encoder", None)?;
        // Both look tokens up in one table where a token has an embedding of its own.
        let table = decoder.end_of_image.map(|_| encoder.embedding.clone());
        let decoder = of(decoder, "decoder", table)?;
        Ok(Self { encoder, decoder })
    }

    /// A model of two stacks, the second of which attends to the first's states.
    pub(super) fn of(encoder: Gemma, decoder: Gemma) -> Self {
        Self { encoder, decoder }
    }

    /// The encoder.
    pub fn encoder(&self) -> &Gemma {
        &self.encoder
    }

    /// The decoder. Its own `hidden` and `forward` are errors, as it attends to an encoder's states.
    pub fn decoder(&self) -> &Gemma {
        &self.decoder
    }

    /// The dtype of the residual streams.
    pub fn dtype(&self) -> DType {
        self.decoder.dtype()
    }

    /// Where its weights are.
    pub fn device(&self) -> &Device {
        self.decoder.device()
    }

    /// A model of these weights under another activation. None is copied.
    pub fn with_activation(&self, activation: impl Into<Activation>) -> Self {
        let activation = activation.into();
        self.map(|gemma| gemma.with_activation(activation))
    }

    /// A model of these weights whose blocks round elsewhere. None is copied.
    pub fn with_rounding(&self, rounding: Rounding) -> Self {
        self.map(|gemma| gemma.with_rounding(rounding))
    }

    /// A model of these weights with residual streams of another dtype: [`Gemma::with_dtype`].
    pub fn with_dtype(&self, dtype: DType) -> Self {
        self.map(|gemma| gemma.with_dtype(dtype))
    }

    fn map(&self, change: impl Fn(&Gemma) -> Gemma) -> Self {
        Self { encoder: change(&self.encoder), decoder: change(&self.decoder) }
    }

    /// How many GELUs follow the activation, in all layers of both together.
    pub fn gates(&self) -> usize {
        self.encoder.gates() + self.decoder.gates()
    }

    /// The encoder's normed states of ids `[batch, seq]`. The mask, `[batch, seq]`, has 1 at tokens and 0 at padding, which
    /// nothing attends to; without one every id is a token, the padding's too.
    ///
    /// # Errors
    /// An id out of the vocabulary; a mask of another shape, or with other numbers; a text of no tokens, or of padding alone.
    pub fn encode(&self, ids: &Tensor, mask: Option<&Tensor>) -> Result<Encoded> {
        self.encode_observed(ids, mask, &mut ())
    }

    /// [`Self::encode`], watched by an observer.
    ///
    /// # Errors
    /// Those of [`Self::encode`], the observer's.
    pub fn encode_observed(
        &self,
        ids: &Tensor,
        mask: Option<&Tensor>,
        observer: &mut impl Observer,
    ) -> Result<Encoded> {
        if ids.elem_count() == 0 {
            candle_core::bail!("the encoder's text has no token")
        }
        let padding = mask.map(Padding::new).transpose()?.flatten();
        if let Some(mask) = mask.filter(|mask| mask.dims() != ids.dims()) {
            candle_core::bail!(
                "a mask of shape {:?} for ids of shape {:?}",
                mask.dims(),
                ids.dims()
            )
        }
        let pass = Pass::new().with_padding(padding.clone());
        Encoded::new(self.encoder.hidden_in(pass, ids, observer)?, padding)
    }

    /// The decoder's normed hidden states, `[batch, seq, hidden]`, of ids `[batch, seq]` and the encoder's states.
    ///
    /// # Errors
    /// An id out of the vocabulary, states of another batch, the observer's.
    pub fn decode(
        &self,
        encoded: &Encoded,
        ids: &Tensor,
        observer: &mut impl Observer,
    ) -> Result<Tensor> {
        let mut observer = Behind { observer, layers: self.encoder.layers().len() };
        let pass = Pass::new().with_encoded(encoded.clone());
        self.decoder.hidden_in(pass, ids, &mut observer)
    }

    /// The decoder's normed hidden states, `[batch, seq, hidden]`, of both texts. The observer's layers are counted over
    /// both stacks, the encoder's first, as a checkpoint's blocks are.
    ///
    /// # Errors
    /// Those of [`Self::encode`] and [`Self::decode`].
    pub fn hidden(
        &self,
        encoder_ids: &Tensor,
        encoder_mask: Option<&Tensor>,
        decoder_ids: &Tensor,
        observer: &mut impl Observer,
    ) -> Result<Tensor> {
        awake(|| {
            let encoded = self.encode_observed(encoder_ids, encoder_mask, observer)?;
            self.decode(&encoded, decoder_ids, observer)
        })
    }

    /// Logits of the decoder's ids, `[batch, seq]` to `[batch, seq, vocab]`, in the model's dtype.
    ///
    /// # Errors
    /// Those of [`Self::hidden`], a decoder without a head.
    pub fn forward(
        &self,
        encoder_ids: &Tensor,
        encoder_mask: Option<&Tensor>,
        decoder_ids: &Tensor,
    ) -> Result<Tensor> {
        awake(|| self.logits(&self.hidden(encoder_ids, encoder_mask, decoder_ids, &mut ())?))
    }

    /// Logits of ids that follow those in the cache, to which they are added; keys and values of the encoder's states are
    /// made once and kept there. Only the last position's logits are computed: `[batch, 1, vocab]`.
    ///
    /// # Errors
    /// Those of [`Gemma::forward_cached`]; a cache of other states of the encoder.
    pub fn forward_cached(
        &self,
        encoded: &Encoded,
        ids: &Tensor,
        cache: &mut Cache,
    ) -> Result<Tensor> {
        self.decoder.next(ids, cache, Some(encoded))
    }

    /// The decoder's normed hidden states `[..., hidden]` to logits `[..., vocab]`.
    ///
    /// # Errors
    /// A decoder without a head.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        self.decoder.logits(hidden)
    }
}

/// Counts a decoder's layers from behind the encoder's on.
struct Behind<'a, O> {
    observer: &'a mut O,
    /// The encoder's.
    layers: usize,
}

impl<O: Observer> Observer for Behind<'_, O> {
    fn watches(&self, layer: usize) -> bool {
        self.observer.watches(self.layers + layer)
    }

    fn block(&mut self, block: Block) -> Result<()> {
        self.observer.block(Block { index: self.layers + block.index, ..block })
    }

    fn residual(&mut self, layer: usize, stream: &Tensor) -> Result<()> {
        self.observer.residual(self.layers + layer, stream)
    }
}
