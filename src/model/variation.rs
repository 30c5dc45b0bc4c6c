//! What can be varied of a model that computes right.

use super::attention::{Attention, AttentionRounding};
use super::embedding::rounded;
use super::gemma::Gemma;
use super::head::Head;
use super::layer::Layer;
use super::norm::{NormRounding, RmsNorm};
use super::rope::RopeRounding;
use crate::checkpoint::NormWeight;
use crate::kernels::activation::Activation;
use crate::kernels::linear::InputRounding;
use candle_core::{DType, Result, Tensor};

/// One thing that a port may compute differently. Weights stay.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Variation {
    /// Another function in the gate.
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
    /// Norms that round elsewhere.
    NormRounding(NormRounding),
    /// Queries and keys that are not normed.
    QkNormLeftOut,
    /// Attention that rounds between its projections.
    AttentionRounding(AttentionRounding),
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
    /// A sliding window that is longer by so many tokens.
    WindowLonger(isize),
    /// Full attention in every layer.
    WindowIgnored,
    /// Attention's scores scaled by `head_dim^(-1/2)`, whatever the config says.
    ScaledByHeadDim,
    /// No soft-cap on attention's scores, nor on the logits.
    SoftcapsLeftOut,
}

impl Variation {
    /// Whether it changes sliding windows, and so nothing of a text that is within one.
    pub fn is_of_windows(self) -> bool {
        matches!(self, Self::WindowLonger(_) | Self::WindowIgnored)
    }
}

impl Gemma {
    /// A model of these weights with one thing computed differently, or `None` where the model does not have
    /// what the variation changes, or computes so already.
    ///
    /// # Errors
    /// candle's, if memory runs out.
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
            V::NormWeightRounded(dtype) => {
                let is_one_plus = self.norm.kind() == Some(NormWeight::OnePlus);
                let round = |weight| one_plus_weight_rounded(weight, dtype);
                let varied = || self.map_norms(|norm| norm.map_weight(round));
                is_one_plus.then(varied).transpose()?
            }
            V::NormRounding(rounding) => {
                Some(self.map_norms(|norm| Ok(norm.with_rounding(rounding)))?)
            }
            V::QkNormLeftOut => {
                let has = self.attentions().any(|attention| attention.norms.q.is_some());
                has.then(|| {
                    self.map_attention(|attention| {
                        let norms = &mut attention.norms;
                        (norms.q, norms.k) = (None, None);
                    })
                })
            }
            V::AttentionRounding(rounding) => {
                Some(self.map_attention(|attention| attention.rounding = Some(rounding)))
            }
            V::InputRounding(rounding) => Some(
                self.with_head(|head| head.with_input_rounding(rounding))
                    .map_layers(|layer| layer.round_inputs(rounding)),
            ),
            V::ChoiceRounding(dtype) => {
                let has = |layer: &Layer| layer.experts.is_some() || layer.mlp.sparsity().is_some();
                self.layers.iter().any(has).then(|| {
                    self.map_layers(|layer| {
                        let sparsity = layer.mlp.sparsity().map(|own| own.with_rounding(dtype));
                        layer.mlp = layer.mlp.with_sparsity(sparsity);
                        if let Some(branch) = &mut layer.experts {
                            let mixture = &branch.mixture;
                            branch.mixture = mixture.map_router(|own| own.with_rounding(dtype));
                        }
                    })
                })
            }
            V::RopeRounding(rounding) => Some(self.map_attention(|attention| {
                attention.rope = attention.rope.with_rounding(rounding);
            })),
            V::RopeGlobal => self.with_rope_of(|attention| !is_sliding(attention)),
            V::RopeLocal => self.with_rope_of(is_sliding),
            V::WindowLonger(by) => self.with_window(|window| window.checked_add_signed(by)),
            V::WindowIgnored => self.with_window(|_| None),
            V::ScaledByHeadDim => {
                let differs = |attention: &Attention| !attention.is_scaled_by_head_dim();
                self.attentions()
                    .any(differs)
                    .then(|| self.map_attention(Attention::scale_by_head_dim))
            }
            V::SoftcapsLeftOut => {
                let capped = self.head().is_some_and(|head| head.softcap().is_some())
                    || self.attentions().any(|attention| attention.softcap().is_some());
                capped.then(|| {
                    self.with_head(Head::without_softcap).map_attention(Attention::remove_softcap)
                })
            }
        })
    }

    /// A model whose norms multiply by something else, if they multiply by what is given.
    fn with_norm_weight(&self, from: NormWeight, to: NormWeight) -> Result<Option<Self>> {
        let varied = |norm: &RmsNorm| Ok(norm.with_kind(to));
        (self.norm.kind() == Some(from)).then(|| self.map_norms(varied)).transpose()
    }

    /// The rotary embedding of the first layer of a kind in all of them; `None` without layers of
    /// either kind, or where all rotate alike.
    fn with_rope_of(&self, kind: impl Fn(&Attention) -> bool) -> Option<Self> {
        let first = |is: bool| self.attentions().find(|attention| kind(attention) == is);
        let [wanted, other] = [first(true)?, first(false)?].map(|attention| &attention.rope);
        let varied =
            |attention: &mut Attention| attention.rope = attention.rope.with_base_of(wanted);
        (!wanted.rotates_like(other)).then(|| self.map_attention(varied))
    }

    /// A model with other sliding windows, if it has any.
    fn with_window(&self, change: impl Fn(usize) -> Option<usize>) -> Option<Self> {
        self.attentions().any(is_sliding).then(|| {
            self.map_attention(|attention| {
                let window = attention.sliding_window.and_then(&change);
                attention.sliding_window = window.map(|window| window.max(1));
            })
        })
    }
}

fn is_sliding(attention: &Attention) -> bool {
    attention.sliding_window.is_some()
}

/// The weight whose `1 + w` is that of the given one, rounded.
fn one_plus_weight_rounded(weight: Tensor, dtype: DType) -> Result<Tensor> {
    (&weight + 1.0)?.to_dtype(dtype)?.to_dtype(weight.dtype())? - 1.0
}
