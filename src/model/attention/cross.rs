//! Attention of a decoder to an encoder's states, in a sub-layer of its own (T5Gemma).

use super::encoder::{EncoderKeys, Place, SeenAll};
use super::one_pass::{Added, Heads, OnePass, Rotation, Sight, Source};
use super::rounding::{AttentionRounding, round};
use super::softmax::{Scores, SoftmaxRounding};
use super::{KeyValues, attend, heads, in_runs};
use crate::checkpoint::{AttentionConfig, LayerAttention, Stack};
use crate::kernels::linear::{InputRoundings, Linear};
use crate::kernels::number::Float;
use crate::kernels::operands::with_slice;
use crate::kernels::threads;
use crate::model::identity::Identity;
use candle_core::{D, DType, Device, Error, Module, Result, Tensor};
use candle_nn::{VarBuilder, linear_b};
use half::{bf16, f16};

/// Grouped-query attention as transformers' `T5GemmaCrossAttention` computes it: queries of the decoder's stream, keys and
/// values of the encoder's states; nothing is normed or rotated, and all states but padding are seen.
///
/// Between the projections everything is f32 (f64 in an f64 model).
#[derive(Debug, Clone)]
pub struct CrossAttention {
    q_proj: Linear,
    keys: KeysValues,
    o_proj: Linear,
    scores: Scores,
    pub(in crate::model) rounding: Option<AttentionRounding>,
    /// What the softmax's scores and weights are rounded to, if to anything.
    pub(in crate::model) softmax_dtype: Option<DType>,
    pub(in crate::model) inputs: InputRoundings,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    identity: Identity,
}

/// How the weights of keys and values are held.
#[derive(Debug, Clone)]
enum KeysValues {
    Separate(Linear, Linear),
    /// Both in one, packed: keys' rows, then values'.
    Packed(Linear),
}

impl CrossAttention {
    /// Reads `{q,k,v,o}_proj`, of which keys' and values' take states of a width.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape; heads that cannot share key heads equally.
    pub fn new(
        config: &AttentionConfig,
        layer: &LayerAttention,
        stack: &Stack,
        states: usize,
        vb: VarBuilder,
    ) -> Result<Self> {
        let LayerAttention { num_key_value_heads: kv_heads, head_dim, .. } = *layer;
        let count = config.num_attention_heads;
        if kv_heads == 0 || head_dim == 0 || count == 0 || !count.is_multiple_of(kv_heads) {
            candle_core::bail!(
                "{count} heads of width {head_dim} on {kv_heads} key heads: key heads are shared equally"
            )
        }
        let Some(queries) = count.checked_mul(head_dim) else {
            candle_core::bail!("{count} heads of width {head_dim} are too large")
        };
        let linear = |columns, rows, name| {
            let bias = if name == "o_proj" { config.output_bias } else { config.bias };
            Ok::<_, Error>(Linear::try_from(linear_b(columns, rows, bias, vb.pp(name))?)?)
        };
        Ok(Self {
            q_proj: linear(stack.hidden_size, queries, "q_proj")?,
            keys: KeysValues::Separate(
                linear(states, kv_heads * head_dim, "k_proj")?,
                linear(states, kv_heads * head_dim, "v_proj")?,
            ),
            o_proj: linear(queries, stack.hidden_size, "o_proj")?,
            scores: Scores { scaling: config.scaling, softcap: config.softcap },
            rounding: None,
            softmax_dtype: None,
            inputs: InputRoundings::default(),
            num_attention_heads: count,
            num_key_value_heads: kv_heads,
            head_dim,
            identity: Identity::new(),
        })
    }

    /// Attention of `x`, `[batch, seq, hidden]`, to an encoder's states.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit; states of another batch; keys and values that another model, layer or batch
    /// began.
    pub fn forward(&self, x: &Tensor, encoder: EncoderKeys) -> Result<Tensor> {
        let mut own = KeyValues::default();
        let place = encoder.place(x.dim(0)?, &mut own)?;
        let queries = self.q_proj.forward(&self.inputs.entering.round(x)?)?; // [batch, seq, heads · head_dim]
        let is_one_pass = matches!(self.keys, KeysValues::Packed(_))
            && self.rounding.is_none()
            && self.softmax_dtype.is_none()
            && !x.track_op()
            && !place.encoded.states().track_op();
        let attended = match queries.dtype() {
            DType::F32 if is_one_pass => self.one_pass::<f32>(&queries, place)?,
            DType::BF16 if is_one_pass => self.one_pass::<bf16>(&queries, place)?,
            DType::F16 if is_one_pass => self.one_pass::<f16>(&queries, place)?,
            _ => self.composed(&queries, place)?.to_dtype(x.dtype())?,
        };
        self.o_proj.forward(&self.inputs.leaving.round(&attended)?) // [batch, seq, hidden]
    }

    /// Keys and values of states, `[batch, seq, kv_heads · head_dim]` each, side by side.
    fn project(&self, states: &Tensor) -> Result<Tensor> {
        let states = self.inputs.entering.round(states)?;
        match &self.keys {
            KeysValues::Packed(both) => both.forward(&states),
            KeysValues::Separate(keys, values) => {
                Tensor::cat(&[keys.forward(&states)?, values.forward(&states)?], D::Minus1)
            }
        }
    }

    /// Out of candle's operations, which it differentiates: `[batch, seq, heads · head_dim]`.
    fn composed(&self, queries: &Tensor, place: Place) -> Result<Tensor> {
        if !place.is_filled() {
            let both = self.project(place.encoded.states())?;
            let width = self.num_key_value_heads * self.head_dim;
            let part = |first: usize| {
                round(self.rounding, heads(both.narrow(2, first, width)?, self.head_dim)?)
            };
            place.kept.append(self.identity, &part(0)?, &part(width)?)?;
        }
        let seen = SeenAll::of(place, self.num_key_value_heads)?;
        let q = round(self.rounding, heads(queries.clone(), self.head_dim)?)?;
        let rounding = SoftmaxRounding { attention: self.rounding, own: self.softmax_dtype };
        in_runs(&q, |q, _| {
            attend([q, &seen.keys, &seen.values], &seen.mask(q.dim(2)?)?, self.scores, rounding)
        })
    }

    fn one_pass<T: Float>(&self, queries: &Tensor, place: Place) -> Result<Tensor> {
        let (batch, seq, _) = queries.dims3()?;
        let is_filled = place.is_filled();
        let Place { encoded, kept } = place;
        let (kv_heads, head_dim) = (self.num_key_value_heads, self.head_dim);
        let panels = kept.panels(self.identity, batch * kv_heads, head_dim)?;
        if !is_filled {
            let both = self.project(encoded.states())?;
            let added = Added {
                heads: Heads { all: 2 * kv_heads, head_dim },
                kv_heads,
                keys_at: 0,
                values_at: kv_heads,
                key_norm: None,
                value_norm: None,
                rotation: Rotation::default(),
            };
            let seq = both.dim(1)?;
            with_slice(&both, |both| threads::operation(|| added.to::<T>(both, seq, panels)))?;
        }
        let source = Source { panels, sight: Sight::All, padding: encoded.padding() };
        let attention = OnePass {
            heads: self.num_attention_heads,
            kv_heads,
            projected: Heads { all: self.num_attention_heads, head_dim },
            query_norm: None,
            rotation: Rotation::default(),
            scores: self.scores,
            sources: &[source],
        };
        let attended = with_slice(queries, |queries| {
            threads::operation(|| attention.attend::<T>(queries, seq))
        })?;
        Tensor::from_vec(attended, (batch, seq, self.num_attention_heads * head_dim), &Device::Cpu)
    }

    /// Scales its scores by `head_dim^(-1/2)`.
    pub(in crate::model) fn scale_by_head_dim(&mut self) {
        self.scores.scaling = (self.head_dim as f64).powf(-0.5);
    }

    /// Takes the soft-cap on its scores away.
    pub(in crate::model) fn remove_softcap(&mut self) {
        self.scores.softcap = None;
    }

    /// It with its projections packed, those of keys and values into one.
    pub(in crate::model) fn packed(self) -> Result<Self> {
        let keys = match &self.keys {
            KeysValues::Separate(keys, values) => {
                KeysValues::Packed(Linear::stacked_and_packed(&[keys, values])?)
            }
            packed => packed.clone(),
        };
        Ok(Self { q_proj: self.q_proj.packed()?, keys, o_proj: self.o_proj.packed()?, ..self })
    }

    /// It for a backward pass through packed projections, which are constants to it.
    pub(in crate::model) fn frozen(&self) -> Self {
        let keys = match &self.keys {
            KeysValues::Packed(both) => KeysValues::Packed(both.frozen()),
            KeysValues::Separate(keys, values) => {
                KeysValues::Separate(keys.frozen(), values.frozen())
            }
        };
        Self { q_proj: self.q_proj.frozen(), keys, o_proj: self.o_proj.frozen(), ..self.clone() }
    }
}
