//! What can be varied of a model that computes right.

mod altup;
mod attention;
mod encoder;
mod experts;
mod norms;
mod per_layer;
mod rope;
mod sparsity;

use super::attention::{Attention, AttentionRounding, CrossAttention};
use super::embedding::rounded;
use super::gemma::Gemma;
use super::head::Head;
use super::layer::Layer;
use super::norm::NormRounding;
use super::rope::{PartialRope, RopeRounding};
use crate::checkpoint::NormWeight;
use crate::kernels::activation::Activation;
use crate::kernels::linear::InputRounding;
use candle_core::{DType, Result};

/// One thing that a port may compute differently, in both stacks of an encoder-decoder. Weights stay.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Variation {
    /// Another function in every gate: the block's, the experts', that of per-layer inputs.
    Activation(Activation),
    /// The embedding's factor `sqrt(hidden)` rounded to a dtype.
    EmbeddingScaleRounded(DType),
    /// The embedding's factor `sqrt(hidden)` in f64, where RecurrentGemma's is rounded to bf16.
    EmbeddingScaleExact,
    /// Embeddings as they are stored, as Llama has them.
    EmbeddingNotScaled,
    /// Norms that multiply by `w` where Gemma's multiply by `1 + w`.
    NormWithoutOne,
    /// Norms that multiply by `1 + w` where Gemma 3n's and 4's multiply by `w`.
    NormWithOne,
    /// `1 + w` of every norm rounded to a dtype.
    NormWeightRounded(DType),
    /// Norms that round elsewhere. The norm inside of a router is not among them.
    NormRounding(NormRounding),
    /// The weight of the norm in front of the MLP in the norm behind attention as well.
    MlpNormBehindAttention,
    /// Queries and keys that are not normed.
    QkNormLeftOut,
    /// Values that are not normed (Gemma 3n, 4).
    ValueNormLeftOut,
    /// Values that are the keys' projection behind the keys' norm, where they are it in front of that (Gemma 4).
    ValuesAfterKeyNorm,
    /// Keys and values of a layer's own where it shares those of an earlier one (Gemma 3n, 4), if a checkpoint was
    /// loaded whose file has them.
    KeysNotShared,
    /// Attention that rounds between its projections.
    AttentionRounding(AttentionRounding),
    /// Scores and weights of attention's softmax rounded to a dtype.
    SoftmaxRounded(DType),
    /// Inputs of every matrix product, the head's too, that are rounded before it.
    InputRounding(InputRounding),
    /// The router of experts and the cutoff of sparse gates, of which every operation is rounded to a dtype.
    ChoiceRounding(DType),
    /// Rotary embeddings that round on the way.
    RopeRounding(RopeRounding),
    /// The rotary embedding of the global layers in every layer.
    RopeGlobal,
    /// The rotary embedding of the sliding layers in every layer.
    RopeLocal,
    /// Positions that are not divided by the factor of linear or proportional rotary embeddings.
    RopeFactorLeftOut,
    /// Rotary embeddings of a part of each head, taken for something else (Gemma 4).
    PartialRope(PartialRope),
    /// A sliding window that is longer by so many tokens.
    WindowLonger(isize),
    /// Full attention in every layer.
    WindowIgnored,
    /// A window that reaches as far before a query as behind it, where an encoder's reaches one farther behind (T5Gemma 2).
    WindowSymmetric,
    /// Keys of an encoder's states that are rotated to their places there, which nothing is in cross attention (T5Gemma
    /// 2).
    EncoderKeysRotated,
    /// Attention's scores scaled by `head_dim^(-1/2)`, whatever the config says.
    ScaledByHeadDim,
    /// No soft-cap on attention's scores, nor on the logits.
    SoftcapsLeftOut,
    /// No factor on the residual stream behind a layer (Gemma 4).
    LayerScalarLeftOut,
    /// Per-layer inputs that do not join the residual stream (Gemma 3n, 4).
    PerLayerInputsLeftOut,
    /// Rows of the table of per-layer embeddings that are not scaled by `sqrt(size)`.
    PerLayerRowsNotScaled,
    /// The sum of such a row and the projection of the embedding that is not scaled by `1/sqrt(2)`.
    PerLayerSumNotScaled,
    /// A router that gets what its experts get, which is normed already (Gemma 4).
    RouterNormed,
    /// The norm behind the block and that behind its experts, each in the other's place.
    ExpertNormsExchanged,
    /// Experts' weights without the scale that each expert has.
    ExpertScaleLeftOut,
    /// Experts' weights that are not divided by the sum of the chosen ones.
    ExpertsNotRenormalised,
    /// Gates that are not made sparse (Gemma 3n).
    SparsityLeftOut,
    /// A standard deviation of the gate that divides by `n - 1`.
    SparsityBySample,
    /// The first ten layers sparse by 0.95 and no other, whatever the config says.
    SparsityOfReleases,
    /// Coefficients of AltUp that are bounded, as they are in training (Gemma 3n).
    AltUpClipped,
    /// The coefficients that predict streams, taken for their transpose.
    AltUpTransposed,
    /// AltUp in f32, in a model of a half type.
    AltUpWide,
    /// Per-layer inputs that join the first stream too, which no other gets to see.
    PerLayerInputsInEveryStream,
    /// A low-rank path beside attention that begins in front of the norm (Gemma 3n).
    LaurelNotNormed,
}

impl Variation {
    /// Whether it changes sliding windows, and so nothing of a text that is within one.
    pub fn is_of_windows(self) -> bool {
        matches!(self, Self::WindowLonger(_) | Self::WindowIgnored | Self::WindowSymmetric)
    }
}

impl Gemma {
    /// A model of these weights with one thing computed differently, or `None` where the model does not have
    /// what the variation changes, or computes so already.
    ///
    /// # Errors
    /// candle's, if memory runs out; of [`Variation::KeysNotShared`], a file that was written to since it was opened.
    pub fn varied(&self, variation: Variation) -> Result<Option<Self>> {
        use Variation as V;
        Ok(match variation {
            V::Activation(activation) => {
                let own = self.layers().first().map(|layer| layer.mlp().activation());
                (own != Some(activation)).then(|| self.with_activation(activation))
            }
            V::EmbeddingScaleRounded(dtype) => {
                let scale = rounded(self.embedding.scale, dtype);
                (scale != self.embedding.scale).then(|| self.with_embedding_scale(scale))
            }
            V::EmbeddingScaleExact => {
                let root = self.embedding.root()?;
                (root != self.embedding.scale).then(|| self.with_embedding_scale(root))
            }
            V::EmbeddingNotScaled => Some(self.with_embedding_scale(1.0)),
            V::NormWithoutOne => self.with_norm_weight(NormWeight::OnePlus, NormWeight::Plain)?,
            V::NormWithOne => self.with_norm_weight(NormWeight::Plain, NormWeight::OnePlus)?,
            V::NormWeightRounded(dtype) => self.with_norm_weight_rounded(dtype)?,
            V::NormRounding(rounding) => {
                Some(self.map_norms(|norm| Ok(norm.with_rounding(rounding)))?)
            }
            V::MlpNormBehindAttention => self.with_mlp_norm_behind_attention(),
            V::QkNormLeftOut => self.without_qk_norm(),
            V::ValueNormLeftOut => self.without_value_norm(),
            V::ValuesAfterKeyNorm => self.with_values_after_key_norm(),
            V::KeysNotShared => self.with_stray_keys()?,
            V::AttentionRounding(rounding) => {
                let varied = self.map_attention(|attention| attention.rounding = Some(rounding));
                Some(varied.map_cross(|cross| cross.rounding = Some(rounding)))
            }
            V::SoftmaxRounded(dtype) => {
                let varied = self.map_attention(|attention| attention.softmax_dtype = Some(dtype));
                Some(varied.map_cross(|cross| cross.softmax_dtype = Some(dtype)))
            }
            V::InputRounding(rounding) => Some(
                self.with_head(|head| head.with_input_rounding(rounding))
                    .map_layers(|layer| layer.round_inputs(rounding.into())),
            ),
            V::ChoiceRounding(dtype) => self.with_choice_rounding(dtype),
            V::RopeRounding(rounding) => Some(self.map_attention(|attention| {
                attention.rope = attention.rope.with_rounding(rounding);
            })),
            V::RopeGlobal => self.with_rope_of(|attention| !attention.is_sliding()),
            V::RopeLocal => self.with_rope_of(Attention::is_sliding),
            V::RopeFactorLeftOut => self.without_rope_factor(),
            V::PartialRope(partial) => self.with_partial_rope(partial),
            V::WindowLonger(by) => self.with_window(|window| window.checked_add_signed(by)),
            V::WindowIgnored => self.with_window(|_| None),
            V::WindowSymmetric => self.with_symmetric_window(),
            V::EncoderKeysRotated => self.with_encoder_keys_rotated(),
            V::ScaledByHeadDim => {
                let varied = self.attention_where(
                    |attention| !attention.is_scaled_by_head_dim(),
                    Attention::scale_by_head_dim,
                );
                varied.map(|varied| varied.map_cross(CrossAttention::scale_by_head_dim))
            }
            V::SoftcapsLeftOut => {
                let capped = self.head().is_some_and(|head| head.softcap().is_some())
                    || self.attentions().any(|attention| attention.softcap().is_some());
                capped.then(|| {
                    self.with_head(Head::without_softcap)
                        .map_attention(Attention::remove_softcap)
                        .map_cross(CrossAttention::remove_softcap)
                })
            }
            V::LayerScalarLeftOut => {
                self.varied_where(|layer| layer.scalar.is_some(), |layer| layer.scalar = None)
            }
            V::PerLayerInputsLeftOut => {
                self.varied_where(|layer| layer.per_layer.is_some(), |layer| layer.per_layer = None)
            }
            V::PerLayerRowsNotScaled => self.with_per_layer_rule(|rule| rule.scales_rows = false),
            V::PerLayerSumNotScaled => self.with_per_layer_rule(|rule| rule.scales_sum = false),
            V::RouterNormed => self.with_experts(|experts| experts.routes_normed = true),
            V::ExpertNormsExchanged => self.with_experts_norms_exchanged(),
            V::ExpertScaleLeftOut => self.without_expert_scale(),
            V::ExpertsNotRenormalised => self.without_renormalisation(),
            V::SparsityLeftOut => self.without_sparsity(),
            V::SparsityBySample => self.with_sparsity_by_sample(),
            V::SparsityOfReleases => self.with_sparsity_of_releases()?,
            V::AltUpClipped => self.with_altup_clipped()?,
            V::AltUpTransposed => self.with_altup_rule(|rule| rule.transposes = true),
            V::AltUpWide => self.with_altup_in_f32(),
            V::PerLayerInputsInEveryStream => {
                let has = self.per_layer.is_some();
                has.then(|| self.with_altup_rule(|rule| rule.adds_to_all = true)).flatten()
            }
            V::LaurelNotNormed => self.with_laurel_from_stream(),
        })
    }

    /// A model with every layer changed, if any of them is one that the change is for.
    fn varied_where(
        &self,
        is_one: impl Fn(&Layer) -> bool,
        change: impl FnMut(&mut Layer),
    ) -> Option<Self> {
        self.layers.iter().any(is_one).then(|| self.map_layers(change))
    }
}
