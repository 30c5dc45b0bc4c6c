//! The decoder.

use super::altup::Streams;
use super::attention::{Attention, Encoded};
use super::cache::Cache;
use super::embedding::Embedding;
use super::head::Head;
use super::identity::Identity;
use super::layer::Layer;
use super::norm::RmsNorm;
use super::observer::{Block, Observer};
use super::pass::Pass;
use super::per_layer::PerLayerEmbedding;
use super::rope::RotaryEmbedding;
use crate::checkpoint::tensors::Numbers;
use crate::checkpoint::{Config, HeadKind, Stack};
use crate::kernels::activation::Activation;
use crate::kernels::linear::streamed::Streamed;
use crate::kernels::linear::{Linear, Weight};
use crate::kernels::number::wide_dtype;
use crate::kernels::threads::awake;
use crate::mlp::Gating;
use crate::rounding::Rounding;
use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::{Init, VarBuilder, linear_no_bias};

/// A Gemma: embeddings, layers around [`crate::GemmaMlp`], final norm, head.
///
/// Cloning it, or switching its activation, copies no weights.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use gemma_mlp::{Checkpoint, Gelu, Gemma};
///
/// let checkpoint = Checkpoint::open("weights/tiny-gemma3")?; // or any directory from the Hub
/// let gemma = Gemma::load(&checkpoint, &Device::Cpu, DType::F32)?;
/// let ids = Tensor::new(vec![checkpoint.encode("The fox")?], &Device::Cpu)?; // [batch, seq]
/// let logits = gemma.forward(&ids)?; // [batch, seq, vocab]
/// let exact = gemma.with_activation(Gelu::Exact).forward(&ids)?; // the same weights
/// assert_eq!(logits.dims(), exact.dims());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Gemma {
    pub(super) embedding: Embedding,
    pub(super) per_layer: Option<PerLayerEmbedding>,
    streams: Option<Streams>,
    pub(super) layers: Vec<Layer>,
    pub(super) norm: RmsNorm,
    head: Option<Head>,
    /// What makes a text's embedding of normed hidden states, where the family has it.
    projection: Option<Linear>,
    dtype: DType,
    identity: Identity,
}

/// Where the parts of a model are read from.
pub(super) struct Builders<'a> {
    /// Of `layers` and `norm`.
    pub(super) backbone: VarBuilder<'a>,
    pub(super) embedding: Table<'a>,
    /// Of the head's `weight`, if it has one of its own.
    pub(super) head: VarBuilder<'a>,
    /// The table of per-layer embeddings, where rows of it are read as they are needed.
    pub(super) per_layer_table: Option<Numbers>,
}

/// How matrices are held.
#[derive(PartialEq)]
pub(super) enum Hold {
    /// As tensors, which train.
    Tensors,
    /// Packed.
    Packed,
    /// In their files; those of a layer come together.
    Streamed(Streamed),
}

/// Where an embedding is.
pub(super) enum Table<'a> {
    /// To be read: where its `weight` is, and the module with the embedding of the end of an image.
    Read(VarBuilder<'a>, VarBuilder<'a>),
    /// Another stack's.
    Shared(Embedding),
}

impl Gemma {
    /// A model out of a `VarBuilder`, whose dtype the weights have; `dtype` is that of the residual
    /// stream. With a builder from a `VarMap` every weight can be trained.
    ///
    /// # Errors
    /// A family without supported attention, a config without layers, an encoder-decoder's
    /// ([`super::EncoderDecoder::new`]), a tensor that is missing or has another shape.
    pub fn new(config: &Config, dtype: DType, vb: VarBuilder) -> Result<Self> {
        let stack = match &config.stacks[..] {
            [stack] => stack,
            [] => candle_core::bail!("a config without a stack of layers"),
            _ => candle_core::bail!("{}", TWO_STACKS),
        };
        let backbone = vb.pp("model");
        let embedding = backbone.pp("embed_tokens");
        let embedding = Table::Read(embedding.clone(), embedding);
        Self::from_parts(
            stack,
            dtype,
            Builders { backbone, embedding, head: vb.pp("lm_head"), per_layer_table: None },
            &Hold::Tensors,
        )
    }

    /// A model like [`Self::new`]'s, whose parts have names of their own.
    pub(super) fn from_parts(
        stack: &Stack,
        dtype: DType,
        builders: Builders,
        hold: &Hold,
    ) -> Result<Self> {
        let pack = *hold != Hold::Tensors;
        let Builders { backbone: vb, embedding, head, per_layer_table } = builders;
        let attention = match &stack.attention {
            Ok(attention) => attention,
            Err(reason) => candle_core::bail!("{reason}"),
        };
        let shape = (stack.vocab_size, stack.hidden_size);
        let stdev = (stack.hidden_size as f64).powf(-0.5);
        let init = Init::Randn { mean: 0.0, stdev };
        let matrix = |vb: VarBuilder| {
            let weight = Weight::Tensor(vb.get_with_hints(shape, "weight", init)?);
            match hold {
                Hold::Tensors => Ok(weight),
                Hold::Packed => weight.packed(),
                Hold::Streamed(_) => weight.table(),
            }
        };
        let embedding = match embedding {
            Table::Shared(embedding) => embedding,
            Table::Read(table, own) => {
                let embedding = Embedding::new(matrix(table)?, stack.embedding_scale)?;
                match stack.end_of_image {
                    Some(id) => {
                        let vector = own.get(stack.hidden_size, "eoi_embedding")?;
                        embedding.with_own_vector(id, vector)
                    }
                    None => embedding,
                }
            }
        };
        let mut layers: Vec<Layer> = vec![];
        for (i, layer) in attention.layers.iter().enumerate() {
            let known = layers.iter().filter_map(|layer| Some(&layer.attention()?.rope));
            let rope = known.into_iter().find(|rope| rope.fits(layer)).cloned();
            let rope = rope.unwrap_or_else(|| RotaryEmbedding::new(layer));
            let layer = || Layer::new(stack, attention, i, rope, vb.pp("layers").pp(i));
            layers.push(match hold {
                Hold::Tensors => layer()?,
                Hold::Packed => layer()?.packed()?,
                Hold::Streamed(streamed) => streamed.layer(|| layer()?.packed())?,
            });
        }
        let norm = vb.pp(stack.norms.last).get(stack.hidden_size, "weight")?;
        let head = match stack.head.value {
            HeadKind::None => None,
            HeadKind::Embedding => Some(embedding.weight().clone()),
            HeadKind::Separate => Some(matrix(head)?),
        };
        let linear = |linear: candle_nn::Linear| {
            let linear = Linear::try_from(linear)?;
            if pack { linear.packed() } else { Ok(linear) }
        };
        let per_layer = stack.per_layer_inputs.as_ref().map(|config| {
            let made = PerLayerEmbedding::new(config, stack, per_layer_table, vb.clone())?;
            if pack { made.packed() } else { Ok(made) }
        });
        let streams = stack.altup.as_ref().map(|config| {
            let made = Streams::new(config, stack, vb.clone())?;
            if pack { made.packed() } else { Ok(made) }
        });
        let projection = stack.embedding_dim.map(|dim| {
            linear(linear_no_bias(stack.hidden_size, dim, vb.pp("embedding_projection"))?)
        });
        let gemma = Self {
            embedding,
            per_layer: per_layer.transpose()?,
            streams: streams.transpose()?,
            projection: projection.transpose()?,
            layers,
            norm: RmsNorm::of(norm, stack.norm_weight, stack.rms_norm_eps),
            head: head.map(|weight| Head::new(weight, stack.final_softcap)).transpose()?,
            dtype,
            identity: Identity::new(),
        };
        // Norms are computed in f32: their weights are widened here and not on every call.
        if pack { gemma.map_norms(|norm| norm.map_weight(Ok)) } else { Ok(gemma) }
    }

    /// The dtype of the residual stream.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Where its weights are.
    pub fn device(&self) -> &Device {
        self.embedding.weight().device()
    }

    /// Its layers.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Its head; bidirectional encoders have none.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// A model of these weights under another activation. None is copied.
    pub fn with_activation(&self, activation: impl Into<Activation>) -> Self {
        let activation = activation.into();
        self.map_layers(|layer| layer.map_gates(|gating| Gating { activation, ..gating }))
    }

    /// A model of these weights whose blocks round elsewhere. None is copied.
    pub fn with_rounding(&self, rounding: Rounding) -> Self {
        self.map_layers(|layer| layer.map_gates(|gating| Gating { rounding, ..gating }))
    }

    /// A model of these weights with a residual stream of another dtype. Weights that are stored wider
    /// than that are not rounded; [`Self::load`] does it.
    pub fn with_dtype(&self, dtype: DType) -> Self {
        Self { dtype, ..self.another() }
    }

    /// The model with its packed matrices as constants to a backward pass, which then goes through them. Nothing is
    /// copied.
    pub fn frozen(&self) -> Self {
        let head = self.head.as_ref().map(Head::frozen);
        Self {
            per_layer: self.per_layer.as_ref().map(PerLayerEmbedding::frozen),
            streams: self.streams.as_ref().map(Streams::frozen),
            projection: self.projection.as_ref().map(Linear::frozen),
            head,
            ..self.map_layers(|layer| *layer = layer.frozen())
        }
    }

    pub(super) fn map_layers(&self, mut change: impl FnMut(&mut Layer)) -> Self {
        let mut gemma = self.another();
        gemma.layers.iter_mut().for_each(&mut change);
        gemma
    }

    /// The attention of every layer that has it.
    pub(super) fn attentions(&self) -> impl Iterator<Item = &Attention> {
        self.layers.iter().filter_map(Layer::attention)
    }

    pub(super) fn map_attention(&self, mut change: impl FnMut(&mut Attention)) -> Self {
        self.map_layers(|layer| layer.attention_mut().into_iter().for_each(&mut change))
    }

    /// A model with every norm changed, those of queries and keys included.
    pub(super) fn map_norms(&self, change: impl Fn(&RmsNorm) -> Result<RmsNorm>) -> Result<Self> {
        let mut gemma = self.another();
        let change = |norm: &mut RmsNorm| -> Result<()> {
            *norm = change(norm)?;
            Ok(())
        };
        change(&mut gemma.norm)?;
        gemma.per_layer.iter_mut().try_for_each(|per_layer| change(&mut per_layer.norm))?;
        gemma.layers.iter_mut().flat_map(Layer::norms_mut).try_for_each(change)?;
        Ok(gemma)
    }

    /// A model with its head changed, if it has one.
    pub(super) fn with_head(&self, change: impl FnOnce(&Head) -> Head) -> Self {
        let head = self.head.as_ref().map(change);
        Self { head, ..self.another() }
    }

    /// A model with another factor on its embeddings.
    pub(super) fn with_embedding_scale(&self, scale: f64) -> Self {
        let mut gemma = self.another();
        gemma.embedding.scale = scale;
        gemma
    }

    /// These weights as a model of its own, to be changed.
    pub(super) fn another(&self) -> Self {
        Self { identity: Identity::new(), ..self.clone() }
    }

    /// How many of a text's first tokens may see what comes behind them: 0 if none does, `usize::MAX` if all do. A text
    /// that is cut behind so many has the same hidden states as far as it goes.
    pub fn seen_ahead(&self) -> usize {
        self.attentions().map(Attention::seen_ahead).max().unwrap_or(0)
    }

    /// How many GELUs follow the activation, in all layers together.
    pub fn gates(&self) -> usize {
        self.layers.iter().map(Layer::gates).sum()
    }

    /// Scaled embeddings of ids, `[batch, seq]` to `[batch, seq, hidden]`.
    ///
    /// # Errors
    /// An id out of the vocabulary.
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        self.embedding.forward(ids, self.dtype)
    }

    /// What enters the first layer, of ids `[batch, seq]`: `[batch, seq, hidden]`, or `[batch, seq, streams · hidden]`;
    /// and adds to the pass what the layers get beside it.
    ///
    /// # Errors
    /// An id out of the vocabulary.
    pub fn begin<'a>(&self, ids: &Tensor, pass: Pass<'a>) -> Result<(Tensor, Pass<'a>)> {
        self.begin_embedded(ids, &self.embed(ids)?, pass)
    }

    /// [`Self::begin`] from scaled embeddings `[batch, seq, hidden]` of the ids, of which rows of further tables are
    /// looked up.
    ///
    /// # Errors
    /// An id out of a table, embeddings of another shape.
    pub fn begin_embedded<'a>(
        &self,
        ids: &Tensor,
        embedded: &Tensor,
        mut pass: Pass<'a>,
    ) -> Result<(Tensor, Pass<'a>)> {
        let inputs = self.per_layer.as_ref().map(|inputs| inputs.forward(ids, embedded));
        pass.set_per_layer_inputs(inputs.transpose()?);
        let stream = match &self.streams {
            Some(streams) => streams.begin(embedded)?,
            None => embedded.clone(),
        };
        Ok((stream, pass))
    }

    /// The final norm, on all that leaves the last layer: `[batch, seq, hidden]`.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn final_norm(&self, stream: &Tensor) -> Result<Tensor> {
        match &self.streams {
            Some(streams) => self.norm.forward(&streams.end(stream)?),
            None => self.norm.forward(stream),
        }
    }

    /// Ids `[batch, seq]` to normed hidden states `[batch, seq, hidden]`, watched by an observer
    /// (`&mut ()` watches nothing).
    ///
    /// # Errors
    /// An id out of the vocabulary, the observer's.
    pub fn hidden(&self, ids: &Tensor, observer: &mut impl Observer) -> Result<Tensor> {
        self.hidden_in(Pass::new(), ids, observer)
    }

    /// [`Self::hidden`] in a pass that has more than the ids: padding, or an encoder's states.
    ///
    /// # Errors
    /// Those of [`Self::hidden`]; what the pass has and does not fit.
    pub fn hidden_in(
        &self,
        pass: Pass,
        ids: &Tensor,
        observer: &mut impl Observer,
    ) -> Result<Tensor> {
        awake(|| {
            let (mut x, mut pass) = self.begin(ids, pass)?;
            for (index, layer) in self.layers.iter().enumerate() {
                x = match observer.watches(index) {
                    false => layer.forward(&x, &mut pass)?,
                    true => {
                        let attended = layer.attend(&x, &mut pass)?;
                        let input = layer.mlp_input(&attended)?;
                        let projected = layer.mlp.project(&input)?;
                        let (mlp, input) = (&layer.mlp, &input);
                        observer.block(Block { index, mlp, input, projected: &projected })?;
                        layer.add_output(&attended, layer.mlp.forward_projected(&projected)?)?
                    }
                };
                observer.residual(index, &x)?;
            }
            self.final_norm(&x)
        })
    }

    /// Ids `[batch, seq]` to logits `[batch, seq, vocab]`, in the model's dtype.
    ///
    /// # Errors
    /// An id out of the vocabulary, a model without a head.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        awake(|| self.logits(&self.hidden(ids, &mut ())?))
    }

    /// Logits of ids that follow those in the cache, to which they are added. Only
    /// the last position's logits are computed: `[batch, 1, vocab]`.
    ///
    /// # Errors
    /// An id out of the vocabulary, no ids, a model without a head or a bidirectional one, another model's cache or one of
    /// another batch size, an empty one and a part of a prefix.
    pub fn forward_cached(&self, ids: &Tensor, cache: &mut Cache) -> Result<Tensor> {
        self.next(ids, cache, None)
    }

    /// [`Self::forward_cached`] beside an encoder's states.
    pub(super) fn next(
        &self,
        ids: &Tensor,
        cache: &mut Cache,
        encoded: Option<&Encoded>,
    ) -> Result<Tensor> {
        if self.head.is_none() {
            candle_core::bail!("{HEADLESS}")
        }
        if self.layers.iter().any(|layer| !layer.attention().is_none_or(Attention::is_causal)) {
            candle_core::bail!(
                "a bidirectional model keeps no cache: every position sees those behind it"
            )
        }
        if *cache.owner.get_or_insert(self.identity) != self.identity {
            candle_core::bail!("the cache holds another model's keys and values: begin a new one")
        }
        if let Some(encoded) = encoded
            && *cache.encoded.get_or_insert(encoded.identity()) != encoded.identity()
        {
            candle_core::bail!(
                "the cache holds keys and values of other states of the encoder: begin a new one"
            )
        }
        if ids.dim(D::Minus1)? == 0 {
            candle_core::bail!("no ids to follow those in the cache")
        }
        awake(|| {
            let pass = Pass::with_cache(cache);
            let pass = match encoded {
                Some(encoded) => pass.with_encoded(encoded.clone()),
                None => pass,
            };
            let (mut x, mut pass) = self.begin(ids, pass)?;
            for layer in &self.layers {
                x = layer.forward(&x, &mut pass)?;
            }
            let last = x.narrow(1, x.dim(1)? - 1, 1)?;
            self.logits(&self.final_norm(&last)?)
        })
    }

    /// What normed hidden states become part of a text's embedding as, `[..., hidden]` to `[..., dim]`: projected, where
    /// the family projects them (EmbeddingGemma 2).
    ///
    /// # Errors
    /// A last dimension that is not the hidden size.
    pub fn embedding_states(&self, hidden: &Tensor) -> Result<Tensor> {
        self.projection.as_ref().map_or(Ok(hidden.clone()), |layer| layer.forward(hidden))
    }

    /// The embeddings of texts: the mean of their tokens' [`Self::embedding_states`], of normed hidden states `[batch,
    /// seq, hidden]`, as `[batch, dim]` in f32 (f64 in an f64 model); of a mask `[batch, seq]`, 1 for a token and 0 for
    /// padding, over tokens alone. [`Self::normalized`] gives them unit length.
    ///
    /// sentence-transformers' `Pooling` with `pooling_mode_mean_tokens`. EmbeddingGemma 1 has two dense layers behind it,
    /// which stand in files of their own beside the model's, and are not applied here.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn pooled(&self, hidden: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let states = self.embedding_states(hidden)?;
        let wide = wide_dtype(states.dtype());
        let states = states.to_dtype(wide)?;
        let Some(mask) = mask else { return states.mean(1) };
        let mask = mask.to_dtype(wide)?.unsqueeze(2)?; // [batch, seq, 1]
        states.broadcast_mul(&mask)?.sum(1)?.broadcast_div(&mask.sum(1)?)
    }

    /// Embeddings `[..., dim]` of unit length.
    ///
    /// # Errors
    /// A scalar.
    pub fn normalized(embeddings: &Tensor) -> Result<Tensor> {
        embeddings.broadcast_div(&embeddings.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
    }

    /// Normed hidden states `[..., hidden]` to logits `[..., vocab]`.
    ///
    /// # Errors
    /// A model without a head.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        match &self.head {
            Some(head) => head.forward(hidden),
            None => candle_core::bail!("{HEADLESS}"),
        }
    }
}

pub(super) const TWO_STACKS: &str =
    "an encoder and a decoder are two models, which EncoderDecoder is";

const HEADLESS: &str = "a bidirectional encoder has no language-model head";

impl Module for Gemma {
    fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        Gemma::forward(self, ids)
    }
}
