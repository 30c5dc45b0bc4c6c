//! A decoder layer.

use super::altup::{AltUp, Laurel};
use super::attention::{Attention, Beside, CrossAttention, Keys};
use super::mixture::ExpertsBranch;
use super::norm::RmsNorm;
use super::pass::{LayerKeys, Pass};
use super::per_layer::PerLayerBlock;
use super::recurrent::RecurrentBlock;
use super::rope::RotaryEmbedding;
use crate::checkpoint::{AttentionConfig, Cross, CrossAttentionConfig, Stack};
use crate::kernels::linear::{InputRounding, InputRoundings};
use crate::mlp::{Gating, GemmaMlp, Sparsity, gemma_mlp_b};
use candle_core::{D, Error, Module, Result, Tensor, Var};
use candle_nn::VarBuilder;

/// A layer: norm, attention, norm, residual; norm, MLP, norm, residual. Between these a decoder beside an encoder may attend
/// to its states.
///
/// In place of attention RecurrentGemma's layers have a recurrence ([`Self::recurrent`]); what is said of attention
/// here holds for it too.
///
/// Some families also norm what attention and MLP return ([`Stack::norms`]), and have more around them: experts beside
/// the MLP, an input of the layer's own, a factor on the residual stream, or several streams of which the layer computes
/// one.
#[derive(Debug, Clone)]
pub struct Layer {
    index: usize,
    /// Whether later layers use its keys and values.
    lends: bool,
    pub(super) input_norm: RmsNorm,
    mixer: Mixer,
    pub(super) post_attention_norm: Option<RmsNorm>,
    pub(super) cross: Option<CrossBlock>,
    pub(super) mlp_norm: RmsNorm,
    pub(super) mlp: GemmaMlp,
    pub(super) experts: Option<ExpertsBranch>,
    pub(super) post_mlp_norm: Option<RmsNorm>,
    pub(super) per_layer: Option<PerLayerBlock>,
    /// `[1]`.
    pub(super) scalar: Option<Tensor>,
    pub(super) streams: Option<(AltUp, Laurel)>,
}

/// Attention to an encoder's states between self attention and MLP, with the norms around it:
/// `x + post(attention(pre(x)))`.
#[derive(Debug, Clone)]
pub struct CrossBlock {
    pub(super) pre: RmsNorm,
    pub(super) attention: CrossAttention,
    pub(super) post: RmsNorm,
}

impl CrossBlock {
    /// The attention.
    pub fn attention(&self) -> &CrossAttention {
        &self.attention
    }
}

/// What mixes the positions of a text.
#[derive(Debug, Clone)]
enum Mixer {
    Attention(Box<Attention>),
    Recurrent(Box<RecurrentBlock>),
}

/// The matrices around the GELUs of a layer, as variables.
#[derive(Debug, Clone)]
pub struct LayerVariables {
    /// The block's, as [`GemmaMlp::with_variables`] has them.
    pub mlp: Vec<Var>,
    /// The experts' gate and up, `[experts, 2 * intermediate, hidden]`, and down, `[experts, hidden, intermediate]`; none
    /// where there are no experts.
    pub experts: Vec<Var>,
    /// The per-layer input's gate and projection, `[size, hidden]`, `[hidden, size]`; none where there is none.
    pub per_layer: Vec<Var>,
}

/// A layer behind its attention.
#[derive(Debug, Clone)]
pub struct Attended {
    /// The residual stream, `[batch, seq, hidden]`.
    pub stream: Tensor,
    /// What all streams were predicted to be behind the layer, `[batch, seq, streams · hidden]`.
    predicted: Option<Tensor>,
    /// The layer's own input, `[batch, seq, size]`.
    per_layer_input: Option<Tensor>,
    gatings: Vec<Gating>,
}

/// A layer behind its MLP.
#[derive(Debug, Clone)]
pub struct Leaving {
    /// What the gate of the layer's own input gets, `[batch, seq, hidden]`.
    pub active: Tensor,
    /// All residual streams.
    streams: Vec<Tensor>,
}

impl Attended {
    /// Some positions of it.
    ///
    /// # Errors
    /// Positions beyond the last.
    pub fn positions(&self, start: usize, len: usize) -> Result<Self> {
        let part = |t: &Tensor| t.narrow(1, start, len)?.contiguous();
        Ok(Self {
            stream: part(&self.stream)?,
            predicted: self.predicted.as_ref().map(part).transpose()?,
            per_layer_input: self.per_layer_input.as_ref().map(part).transpose()?,
            gatings: self.gatings.clone(),
        })
    }

    /// The same with another residual stream of its shape.
    pub fn with_stream(&self, stream: Tensor) -> Self {
        Self { stream, ..self.clone() }
    }
}

impl Layer {
    /// Reads the tensors of the layer with an index. `rope` is that of an earlier layer, if one rotates alike.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape; a layer that the config does not have.
    pub fn new(
        stack: &Stack,
        attention: &AttentionConfig,
        index: usize,
        rope: RotaryEmbedding,
        vb: VarBuilder,
    ) -> Result<Self> {
        let (hidden, eps) = (stack.hidden_size, stack.rms_norm_eps);
        let norm = |name: &str| -> Result<RmsNorm> {
            Ok(RmsNorm::of(vb.pp(name).get(hidden, "weight")?, stack.norm_weight, eps))
        };
        let names = &stack.norms;
        let (Some(of_attention), Some(feed_forward)) =
            (attention.layers.get(index), stack.feed_forward.get(index))
        else {
            candle_core::bail!("layer {index} of {} layers", attention.layers.len())
        };
        let mlp = gemma_mlp_b(
            hidden,
            feed_forward.intermediate_size,
            stack.mlp_bias,
            stack.activation.value,
            vb.pp(stack.mlp_name),
        )?;
        let sparsity = match feed_forward.sparsity {
            0.0 => None,
            fraction => Some(Sparsity::new(fraction).map_err(Error::wrap)?),
        };
        let cross = match attention.cross {
            Some(CrossAttentionConfig { kind: Cross::SubLayer, hidden_size }) => {
                let vb = vb.pp("cross_attn");
                Some(CrossBlock {
                    pre: norm("pre_cross_attn_layernorm")?,
                    attention: CrossAttention::new(
                        attention,
                        of_attention,
                        stack,
                        hidden_size,
                        vb,
                    )?,
                    post: norm("post_cross_attn_layernorm")?,
                })
            }
            _ => None,
        };
        let mixer = vb.pp(attention.name);
        let mixer = match stack.recurrent.get(index).copied().flatten() {
            Some(config) => {
                let block = RecurrentBlock::new(&config, hidden, stack.activation.value, mixer)?;
                Mixer::Recurrent(Box::new(block))
            }
            None => Mixer::Attention(Box::new(Attention::new(
                attention,
                of_attention,
                stack,
                rope,
                mixer,
            )?)),
        };
        let experts = feed_forward.experts.as_ref();
        let per_layer = stack.per_layer_inputs.as_ref();
        let streams = stack.altup.as_ref();
        Ok(Self {
            index,
            lends: attention.layers.iter().any(|layer| layer.shares == Some(index)),
            input_norm: norm(names.input)?,
            mixer,
            post_attention_norm: names.post_attention.map(norm).transpose()?,
            cross,
            mlp_norm: norm(names.pre_mlp)?,
            mlp: mlp.with_sparsity(sparsity),
            experts: experts
                .map(|config| ExpertsBranch::new(config, stack, vb.clone()))
                .transpose()?,
            post_mlp_norm: names.post_mlp.map(norm).transpose()?,
            per_layer: per_layer
                .map(|config| PerLayerBlock::new(config, stack, vb.clone()))
                .transpose()?,
            scalar: stack.layer_scalar.then(|| vb.get(1, "layer_scalar")).transpose()?,
            streams: streams
                .map(|config| {
                    let altup = AltUp::new(config, stack, vb.pp("altup"))?;
                    Ok::<_, Error>((altup, Laurel::new(config, stack, vb.pp("laurel"))?))
                })
                .transpose()?,
        })
    }

    /// The layer with its matrices packed.
    pub(super) fn packed(self) -> Result<Self> {
        Ok(Self {
            mixer: match self.mixer {
                Mixer::Attention(attention) => Mixer::Attention(Box::new(attention.packed()?)),
                Mixer::Recurrent(block) => Mixer::Recurrent(Box::new(block.packed()?)),
            },
            cross: self
                .cross
                .map(|cross| {
                    Ok::<_, Error>(CrossBlock { attention: cross.attention.packed()?, ..cross })
                })
                .transpose()?,
            mlp: self.mlp.packed()?,
            experts: self.experts.map(ExpertsBranch::packed).transpose()?,
            per_layer: self.per_layer.map(PerLayerBlock::packed).transpose()?,
            streams: self
                .streams
                .map(|(altup, laurel)| Ok::<_, Error>((altup.packed()?, laurel.packed()?)))
                .transpose()?,
            ..self
        })
    }

    /// Which layer it is, from 0 on.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The gated block.
    pub fn mlp(&self) -> &GemmaMlp {
        &self.mlp
    }

    /// The experts beside the block, where there are some.
    pub fn experts(&self) -> Option<&ExpertsBranch> {
        self.experts.as_ref()
    }

    /// The gate of the layer's own input, where it has one.
    pub fn per_layer(&self) -> Option<&PerLayerBlock> {
        self.per_layer.as_ref()
    }

    /// The attention to an encoder's states that stands between self attention and MLP, where there is one.
    pub fn cross(&self) -> Option<&CrossBlock> {
        self.cross.as_ref()
    }

    /// Whether later layers use its keys and values.
    pub fn lends(&self) -> bool {
        self.lends
    }

    /// How many GELUs it computes: the block's, the experts', that of its own input, the recurrence's.
    pub fn gates(&self) -> usize {
        let others = [self.experts.is_some(), self.per_layer.is_some(), self.recurrent().is_some()];
        1 + others.into_iter().map(usize::from).sum::<usize>()
    }

    /// The layer around another block.
    pub fn with_mlp(&self, mlp: GemmaMlp) -> Self {
        Self { mlp, ..self.clone() }
    }

    /// The layer with its packed matrices as constants to a backward pass, which then goes through them. Nothing is
    /// copied.
    pub fn frozen(&self) -> Self {
        Self {
            mixer: match &self.mixer {
                Mixer::Attention(attention) => Mixer::Attention(Box::new(attention.frozen())),
                Mixer::Recurrent(block) => Mixer::Recurrent(Box::new(block.frozen())),
            },
            cross: self
                .cross
                .as_ref()
                .map(|cross| CrossBlock { attention: cross.attention.frozen(), ..cross.clone() }),
            mlp: self.mlp.frozen(),
            experts: self.experts.as_ref().map(ExpertsBranch::frozen),
            per_layer: self.per_layer.as_ref().map(PerLayerBlock::frozen),
            streams: self.streams.as_ref().map(|(altup, laurel)| (altup.frozen(), laurel.frozen())),
            ..self.clone()
        }
    }

    /// The layer with copies of the matrices around its GELUs as variables, and the variables: after a backward pass
    /// each has a gradient. All other matrices are [frozen](Self::frozen).
    ///
    /// # Errors
    /// candle's, if the device is out of memory.
    pub fn with_variables(&self) -> Result<(Self, LayerVariables)> {
        let mut layer = self.frozen();
        let (mlp, of_mlp) = self.mlp.with_variables()?;
        layer.mlp = mlp;
        let mut variables = LayerVariables { mlp: of_mlp, experts: vec![], per_layer: vec![] };
        if let Some(branch) = &mut layer.experts {
            (*branch, variables.experts) = branch.with_variables()?;
        }
        if let Some(block) = &mut layer.per_layer {
            (block.gate, variables.per_layer) = block.gate.with_variables()?;
        }
        Ok((layer, variables))
    }

    /// Changes the way in which every gate is passed on, the block's and all others.
    pub(super) fn map_gates(&mut self, change: impl Fn(Gating) -> Gating) {
        self.mlp = self.mlp.with_gating(change(self.mlp.gating()));
        if let Some(experts) = &mut self.experts {
            let Gating { activation, rounding } = change(experts.mixture.gating());
            experts.mixture = experts.mixture.with_activation(activation).with_rounding(rounding);
        }
        if let Some(block) = &mut self.per_layer {
            block.gate = block.gate.with_gating(change(block.gate.gating()));
        }
        if let Mixer::Recurrent(block) = &mut self.mixer {
            let gate = block.gate().with_gating(change(block.gate().gating()));
            **block = block.with_gate(gate);
        }
    }

    /// Rounds the inputs of its products.
    pub(super) fn round_inputs(&mut self, inputs: LayerInputs) {
        let LayerInputs { mixer, mlp, experts, per_layer } = inputs;
        match &mut self.mixer {
            Mixer::Attention(attention) => attention.inputs = mixer,
            Mixer::Recurrent(block) => **block = block.with_input_rounding(mixer),
        }
        self.cross.iter_mut().for_each(|cross| cross.attention.inputs = mixer);
        self.mlp = self.mlp.with_input_rounding(mlp);
        self.experts = self.experts.as_ref().map(|own| own.with_input_rounding(experts));
        self.per_layer = self.per_layer.as_ref().map(|own| own.with_input_rounding(per_layer));
    }

    /// All its norms.
    pub(super) fn norms_mut(&mut self) -> impl Iterator<Item = &mut RmsNorm> {
        let own = [&mut self.input_norm, &mut self.mlp_norm];
        let optional = [&mut self.post_attention_norm, &mut self.post_mlp_norm];
        let heads = match &mut self.mixer {
            Mixer::Attention(attention) => Some(attention.norms.iter_mut()),
            Mixer::Recurrent(_) => None,
        };
        let heads = heads.into_iter().flatten();
        let cross = self.cross.iter_mut().flat_map(|cross| [&mut cross.pre, &mut cross.post]);
        let experts = self.experts.iter_mut().flat_map(ExpertsBranch::norms_mut);
        let per_layer = self.per_layer.iter_mut().map(|block| &mut block.norm);
        let streams = self.streams.iter_mut();
        let streams =
            streams.flat_map(|(altup, laurel)| [&mut altup.router_norm, &mut laurel.norm]);
        let optional = optional.into_iter().flatten();
        own.into_iter()
            .chain(optional)
            .chain(heads)
            .chain(cross)
            .chain(experts)
            .chain(per_layer)
            .chain(streams)
    }

    /// What attention gets, from the residual stream that the layer computes.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn attention_input(&self, x: &Tensor) -> Result<Tensor> {
        self.input_norm.forward(x)
    }

    /// The attention, if it is that which mixes positions.
    pub fn attention(&self) -> Option<&Attention> {
        match &self.mixer {
            Mixer::Attention(attention) => Some(attention),
            Mixer::Recurrent(_) => None,
        }
    }

    pub(super) fn attention_mut(&mut self) -> Option<&mut Attention> {
        match &mut self.mixer {
            Mixer::Attention(attention) => Some(attention),
            Mixer::Recurrent(_) => None,
        }
    }

    /// The recurrence in place of attention, if there is one.
    pub fn recurrent(&self) -> Option<&RecurrentBlock> {
        match &self.mixer {
            Mixer::Attention(_) => None,
            Mixer::Recurrent(block) => Some(block),
        }
    }

    /// The norm of what attention returns, in families that have one.
    pub fn post_attention_norm(&self) -> Option<&RmsNorm> {
        self.post_attention_norm.as_ref()
    }

    /// The norm of what the MLP returns, in families that have one.
    pub fn post_mlp_norm(&self) -> Option<&RmsNorm> {
        self.post_mlp_norm.as_ref()
    }

    /// What stands in front of attention: of all that enters the layer, `[batch, seq, hidden]` or `[batch, seq, streams ·
    /// hidden]`, the stream that it computes, and what goes around attention.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn enter(&self, x: &Tensor, pass: &Pass) -> Result<Attended> {
        let predicted = self.streams.as_ref().map(|(altup, _)| altup.predict(x)).transpose()?;
        Ok(Attended {
            stream: match (&self.streams, &predicted) {
                (Some((altup, _)), Some(predicted)) => altup.active(predicted)?,
                _ => x.clone(),
            },
            predicted,
            per_layer_input: pass.per_layer_input(self.index)?,
            gatings: pass.gatings().to_vec(),
        })
    }

    /// What attention returns, `[batch, seq, hidden]`, of its input.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit; keys and values, or a state, of another model or batch, or none where it
    /// has none of its own; texts that begin anew in a pass with a cache, or where layers share keys and values.
    pub fn attention_output(&self, input: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        match &self.mixer {
            Mixer::Attention(attention) if !pass.restarts().is_empty() => {
                if self.lends || attention.shares().is_some() || pass.has_cache() {
                    candle_core::bail!(
                        "texts that begin anew where keys and values are kept or shared"
                    )
                }
                restarted(attention, input, pass.restarts())
            }
            Mixer::Attention(attention) => {
                let keys = pass.keys(self.index, attention.shares(), self.lends)?;
                let LayerKeys { own, encoder, padding } = keys;
                let encoder = encoder.filter(|_| attention.is_merged());
                attention.forward_beside(input, own, Beside { padding, encoder })
            }
            Mixer::Recurrent(_) if pass.padding().is_some() => {
                candle_core::bail!("a recurrence reads padding as if it were tokens")
            }
            Mixer::Recurrent(block) => {
                let gatings = pass.gatings().to_vec();
                let (state, restarts) = pass.state(self.index)?;
                block.forward_in(input, state, restarts, &gatings)
            }
        }
    }

    /// The residual stream after attention to an encoder's states, `[batch, seq, hidden]`, where that is a sub-layer of
    /// its own; elsewhere the stream as it is.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit; a pass without an encoder's states.
    pub fn attend_to_encoder(&self, x: Tensor, pass: &mut Pass) -> Result<Tensor> {
        let Some(cross) = &self.cross else { return Ok(x) };
        let input = cross.pre.forward(&x)?;
        let output = cross.attention.forward(&input, pass.encoder_keys(self.index)?)?;
        cross.post.forward_add(&output, &x)
    }

    /// The first half: from all that enters the layer to the residual stream after attention, to its own text and to an
    /// encoder's states.
    ///
    /// # Errors
    /// Those of [`Self::attention_output`] and [`Self::attend_to_encoder`].
    pub fn attend(&self, x: &Tensor, pass: &mut Pass) -> Result<Attended> {
        let entered = self.enter(x, pass)?;
        let input = self.attention_input(&entered.stream)?;
        let output = self.attention_output(&input, pass)?;
        let stream = self.add_attention(&entered.stream, &input, output)?;
        let stream = self.attend_to_encoder(stream, pass)?;
        Ok(entered.with_stream(stream))
    }

    /// The residual stream after attention, from that before it, attention's input and its output.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn add_attention(&self, x: &Tensor, input: &Tensor, output: Tensor) -> Result<Tensor> {
        let sum = add(x, output, self.post_attention_norm.as_ref())?;
        self.beside_attention(x, input, sum)
    }

    /// The residual stream with what goes beside attention, if anything does.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn beside_attention(&self, x: &Tensor, input: &Tensor, sum: Tensor) -> Result<Tensor> {
        match &self.streams {
            Some((_, laurel)) => (sum + laurel.forward(x, input)?)? / 2f64.sqrt(),
            None => Ok(sum),
        }
    }

    /// What the MLP gets, from the residual stream after attention.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn mlp_input(&self, attended: &Attended) -> Result<Tensor> {
        self.mlp_norm.forward(&attended.stream)
    }

    /// All that leaves the layer, from what was there after attention and the MLP's output.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit; a layer with an input of its own that did not get it.
    pub fn add_output(&self, attended: &Attended, output: Tensor) -> Result<Tensor> {
        let output = match &self.experts {
            Some(branch) => {
                let experts = branch.output(&attended.stream, &attended.gatings)?;
                branch.join(&output, &experts)?
            }
            None => output,
        };
        let leaving = self.correct(attended, self.add_mlp(attended, output)?)?;
        let addition = match &self.per_layer {
            Some(block) => {
                let input = self.per_layer_input(attended)?;
                Some(block.forward(&leaving.active, input, &attended.gatings)?)
            }
            None => None,
        };
        self.leave(leaving, addition.as_ref())
    }

    /// The residual stream after the MLP, from what was there after attention and what the MLP returned, joined by the
    /// experts' where there are some: `[batch, seq, hidden]`.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn add_mlp(&self, attended: &Attended, output: Tensor) -> Result<Tensor> {
        add(&attended.stream, output, self.post_mlp_norm.as_ref())
    }

    /// What a layer's own input is let in by, from the residual stream after the MLP: the stream itself, or, of several
    /// streams that it corrects, the active one.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn correct(&self, attended: &Attended, stream: Tensor) -> Result<Leaving> {
        let (Some((altup, _)), Some(predicted)) = (&self.streams, &attended.predicted) else {
            return Ok(Leaving { active: stream.clone(), streams: vec![stream] });
        };
        let streams = altup.correct(predicted, &stream)?;
        Ok(Leaving { active: altup.gated(&streams)?, streams })
    }

    /// The layer's own input, `[batch, seq, size]`.
    ///
    /// # Errors
    /// A pass that had none for it.
    pub fn per_layer_input<'a>(&self, attended: &'a Attended) -> Result<&'a Tensor> {
        match &attended.per_layer_input {
            Some(input) => Ok(input),
            None => candle_core::bail!("layer {} has no input of its own in this pass", self.index),
        }
    }

    /// All that leaves the layer: the residual stream, or all of them, with what its own input adds, and its factor.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn leave(&self, leaving: Leaving, addition: Option<&Tensor>) -> Result<Tensor> {
        let stream = match (&self.streams, addition) {
            (Some((altup, _)), Some(addition)) => altup.joined(leaving.streams, addition)?,
            (None, Some(addition)) => (&leaving.active + addition)?,
            (_, None) => Tensor::cat(&leaving.streams, D::Minus1)?,
        };
        match &self.scalar {
            Some(scalar) => stream.broadcast_mul(&scalar.to_dtype(stream.dtype())?),
            None => Ok(stream),
        }
    }

    /// The whole layer: from all that enters it to all that leaves it, of one shape.
    ///
    /// # Errors
    /// Those of [`Self::attend`] and [`Self::add_output`].
    pub fn forward(&self, x: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let attended = self.attend(x, pass)?;
        let output = self.mlp.forward(&self.mlp_input(&attended)?)?;
        self.add_output(&attended, output)
    }
}

/// Attention in texts that are several each: to each of these by itself.
fn restarted(attention: &Attention, x: &Tensor, restarts: &[Vec<usize>]) -> Result<Tensor> {
    let (batch, seq, _) = x.dims3()?;
    if restarts.len() != batch {
        candle_core::bail!("restarts of {} texts in a batch of {batch}", restarts.len())
    }
    let text = |(text, restarts): (usize, &Vec<usize>)| {
        let starts = [&[0], restarts.as_slice()].concat();
        let ends = restarts.iter().copied().chain([seq]);
        let pieces = starts.iter().zip(ends).map(|(&start, end)| match end.checked_sub(start) {
            Some(len @ 1..) if end <= seq => {
                let piece = x.narrow(0, text, 1)?.narrow(1, start, len)?.contiguous()?;
                attention.forward(&piece, Keys::Own)
            }
            _ => candle_core::bail!(
                "restarts {restarts:?} in a text of {seq} positions: they rise, from 1 on"
            ),
        });
        Tensor::cat(&pieces.collect::<Result<Vec<_>>>()?, 1)
    };
    let texts = restarts.iter().enumerate().map(text);
    Tensor::cat(&texts.collect::<Result<Vec<_>>>()?, 0)
}

/// What a sublayer returned, perhaps normed, added to the residual stream.
fn add(stream: &Tensor, x: Tensor, norm: Option<&RmsNorm>) -> Result<Tensor> {
    match norm {
        Some(norm) => norm.forward_add(&x, stream),
        None => stream + x,
    }
}

/// How the inputs of a layer's products are rounded, by module.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LayerInputs {
    /// Attention or what stands in its place, and attention to an encoder's states.
    pub(super) mixer: InputRoundings,
    pub(super) mlp: InputRoundings,
    pub(super) experts: InputRoundings,
    pub(super) per_layer: InputRoundings,
}

/// One for all.
impl From<InputRounding> for LayerInputs {
    fn from(all: InputRounding) -> Self {
        let all = all.into();
        Self { mixer: all, mlp: all, experts: all, per_layer: all }
    }
}
