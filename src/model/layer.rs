//! A decoder layer.

use super::attention::{Attention, KeyValues};
use super::norm::RmsNorm;
use super::rope::RotaryEmbedding;
use crate::checkpoint::{AttentionConfig, LayerAttention, Stack};
use crate::mlp::{GemmaMlp, gemma_mlp_b};
use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;

/// A decoder layer: norm, attention, norm, residual; norm, MLP, norm, residual.
///
/// Some families also norm what attention and MLP return: [`Stack::norms`].
#[derive(Debug, Clone)]
pub struct Layer {
    pub(super) input_norm: RmsNorm,
    pub(super) attention: Attention,
    pub(super) post_attention_norm: Option<RmsNorm>,
    pub(super) mlp_norm: RmsNorm,
    pub(super) mlp: GemmaMlp,
    pub(super) post_mlp_norm: Option<RmsNorm>,
}

impl Layer {
    /// Reads a layer's tensors. `rope` is that of an earlier layer, if one rotates alike.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn new(
        stack: &Stack,
        attention: &AttentionConfig,
        layer: &LayerAttention,
        rope: RotaryEmbedding,
        vb: VarBuilder,
    ) -> Result<Self> {
        let (hidden, eps) = (stack.hidden_size, stack.rms_norm_eps);
        let norm = |name: &str| -> Result<RmsNorm> {
            Ok(RmsNorm::new(vb.pp(name).get(hidden, "weight")?, eps))
        };
        let names = &stack.norms;
        Ok(Self {
            input_norm: norm(names.input)?,
            attention: Attention::new(attention, layer, hidden, eps, rope, vb.pp("self_attn"))?,
            post_attention_norm: names.post_attention.map(norm).transpose()?,
            mlp_norm: norm(names.pre_mlp)?,
            mlp: gemma_mlp_b(
                hidden,
                stack.intermediate_size,
                stack.mlp_bias,
                stack.activation.value,
                vb.pp("mlp"),
            )?,
            post_mlp_norm: names.post_mlp.map(norm).transpose()?,
        })
    }

    /// The layer with its matrices packed.
    pub(super) fn packed(self) -> Result<Self> {
        Ok(Self { attention: self.attention.packed()?, mlp: self.mlp.packed()?, ..self })
    }

    /// The gated block.
    pub fn mlp(&self) -> &GemmaMlp {
        &self.mlp
    }

    /// The layer around another block.
    pub fn with_mlp(&self, mlp: GemmaMlp) -> Self {
        Self { mlp, ..self.clone() }
    }

    /// The layer for a backward pass through packed matrices, which are constants to it; the block
    /// stays as it is.
    pub fn with_frozen_attention(&self) -> Self {
        Self { attention: self.attention.frozen(), ..self.clone() }
    }

    /// All its norms.
    pub(super) fn norms_mut(&mut self) -> impl Iterator<Item = &mut RmsNorm> {
        let own = [&mut self.input_norm, &mut self.mlp_norm];
        let optional = [&mut self.post_attention_norm, &mut self.post_mlp_norm];
        let heads = self.attention.qk_norm.iter_mut().flat_map(|(q, k)| [q, k]);
        own.into_iter().chain(optional.into_iter().flatten()).chain(heads)
    }

    /// What attention gets, from the residual stream.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn attention_input(&self, x: &Tensor) -> Result<Tensor> {
        self.input_norm.forward(x)
    }

    /// The attention.
    pub fn attention(&self) -> &Attention {
        &self.attention
    }

    /// The norm of what attention returns, in families that have one.
    pub fn post_attention_norm(&self) -> Option<&RmsNorm> {
        self.post_attention_norm.as_ref()
    }

    /// The norm of what the MLP returns, in families that have one.
    pub fn post_mlp_norm(&self) -> Option<&RmsNorm> {
        self.post_mlp_norm.as_ref()
    }

    /// The first half: the residual stream after attention. Both `[batch, seq, hidden]`.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn attend(&self, x: &Tensor, cache: Option<&mut KeyValues>) -> Result<Tensor> {
        let attended = self.attention.forward(&self.attention_input(x)?, cache)?;
        self.add_attention(x, attended)
    }

    /// The residual stream after attention, from that before it and attention's output.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn add_attention(&self, x: &Tensor, output: Tensor) -> Result<Tensor> {
        add(x, output, self.post_attention_norm.as_ref())
    }

    /// What the MLP gets, from the residual stream after attention.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn mlp_input(&self, attended: &Tensor) -> Result<Tensor> {
        self.mlp_norm.forward(attended)
    }

    /// The residual stream after the layer, from that after attention and the MLP's output.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn add_output(&self, attended: &Tensor, output: Tensor) -> Result<Tensor> {
        add(attended, output, self.post_mlp_norm.as_ref())
    }

    /// The whole layer: `[batch, seq, hidden]` to the same.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn forward(&self, x: &Tensor, cache: Option<&mut KeyValues>) -> Result<Tensor> {
        let attended = self.attend(x, cache)?;
        let output = self.mlp.forward(&self.mlp_input(&attended)?)?;
        self.add_output(&attended, output)
    }
}

/// What a sublayer returned, perhaps normed, added to the residual stream.
fn add(stream: &Tensor, x: Tensor, norm: Option<&RmsNorm>) -> Result<Tensor> {
    match norm {
        Some(norm) => norm.forward_add(&x, stream),
        None => stream + x,
    }
}
