//! A decoder layer.

use super::attention::{Attention, KeyValues};
use super::norm::RmsNorm;
use super::rope::RotaryEmbedding;
use crate::checkpoint::{AttentionConfig, Family, LayerAttention, Stack};
use crate::mlp::{GemmaMlp, gemma_mlp_b};
use candle_core::{Module, Result, Tensor};
use candle_nn::VarBuilder;

/// A decoder layer: norm, attention, norm, residual; norm, MLP, norm, residual.
///
/// Gemma 2 and 3 norm what attention and MLP return; Gemma 1 and VaultGemma do not, and in Gemma 1
/// the norm named "post attention" is the one in front of the MLP.
#[derive(Debug, Clone)]
pub struct Layer {
    pub(super) input_norm: RmsNorm,
    pub(super) attention: Attention,
    pub(super) post_attention_norm: Option<RmsNorm>,
    pub(super) mlp_norm: RmsNorm,
    pub(super) mlp: GemmaMlp,
    pub(super) post_mlp_norm: Option<RmsNorm>,
}

/// What a layer calls its norms (transformers, `modeling_*.py`), in the order of use; Gemma 1 and
/// VaultGemma have no norms behind attention and MLP.
pub(super) fn norm_names(family: Family) -> [Option<&'static str>; 4] {
    match family {
        Family::Gemma => [Some("input_layernorm"), None, Some("post_attention_layernorm"), None],
        Family::Gemma2 | Family::Gemma3 => [
            Some("input_layernorm"),
            Some("post_attention_layernorm"),
            Some("pre_feedforward_layernorm"),
            Some("post_feedforward_layernorm"),
        ],
        _ => [Some("input_layernorm"), None, Some("pre_feedforward_layernorm"), None],
    }
}

impl Layer {
    /// Reads a layer's tensors. `rope` is that of an earlier layer, if one rotates alike.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn new(
        family: Family,
        stack: &Stack,
        attention: (&AttentionConfig, &LayerAttention),
        rope: RotaryEmbedding,
        vb: VarBuilder,
    ) -> Result<Self> {
        let (hidden, eps) = (stack.hidden_size, stack.rms_norm_eps);
        let norm = |name: &str| -> Result<RmsNorm> {
            Ok(RmsNorm::new(vb.pp(name).get(hidden, "weight")?, eps))
        };
        let [input, post_attention, pre_mlp, post_mlp] = norm_names(family);
        let (config, layer) = attention;
        Ok(Self {
            input_norm: norm(input.unwrap_or_default())?,
            attention: Attention::new(config, layer, hidden, eps, rope, vb.pp("self_attn"))?,
            post_attention_norm: post_attention.map(norm).transpose()?,
            mlp_norm: norm(pre_mlp.unwrap_or_default())?,
            mlp: gemma_mlp_b(
                hidden,
                stack.intermediate_size,
                stack.mlp_bias,
                stack.activation.value,
                vb.pp("mlp"),
            )?,
            post_mlp_norm: post_mlp.map(norm).transpose()?,
        })
    }

    /// The same with its matrices packed.
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

    /// The first half: the residual stream after attention. Both `[batch, seq, hidden]`.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn attend(&self, x: &Tensor, cache: Option<&mut KeyValues>) -> Result<Tensor> {
        let attended = self.attention.forward(&self.input_norm.forward(x)?, cache)?;
        add(x, attended, self.post_attention_norm.as_ref())
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
    pub fn finish(&self, attended: &Tensor, output: Tensor) -> Result<Tensor> {
        add(attended, output, self.post_mlp_norm.as_ref())
    }

    /// The whole layer: `[batch, seq, hidden]` to the same.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn forward(&self, x: &Tensor, cache: Option<&mut KeyValues>) -> Result<Tensor> {
        let attended = self.attend(x, cache)?;
        let output = self.mlp.forward(&self.mlp_input(&attended)?)?;
        self.finish(&attended, output)
    }
}

/// What a sublayer returned, perhaps normed, added to the residual stream.
fn add(stream: &Tensor, x: Tensor, norm: Option<&RmsNorm>) -> Result<Tensor> {
    match norm {
        Some(norm) => norm.forward_add(&x, stream),
        None => stream + x,
    }
}
