//! Gemma's attention, with or without a cache, to itself and to an encoder's states.

mod cache;
mod cross;
mod encoder;
mod one_pass;
mod padding;
mod rounding;
mod softmax;
mod stray;
mod visible;

pub use cache::KeyValues;
pub use cross::CrossAttention;
pub use encoder::{Encoded, EncoderKeys};
pub use padding::Padding;
pub use rounding::AttentionRounding;
pub(super) use stray::StrayKeys;

use super::identity::Identity;
use super::norm::RmsNorm;
use super::rope::RotaryEmbedding;
use crate::checkpoint::{
    AttentionConfig, Cross, CrossAttentionConfig, LayerAttention, Prefix, Stack, ValuesFrom,
};
use crate::kernels::linear::{InputRoundings, Linear, PANEL};
use crate::kernels::number::Float;
use crate::kernels::number::wide_dtype;
use crate::kernels::operands::with_slice;
use crate::kernels::threads;
use cache::Panels;
use candle_core::{D, DType, Device, Error, Module, Result, Tensor};
use candle_nn::{VarBuilder, linear_b};
use encoder::{Place, SeenAll};
use half::{bf16, f16};
use one_pass::{Added, Heads, OnePass, Rotation, Sight, Source};
use rounding::round;
use softmax::{Scores, SoftmaxRounding, masked_softmax};
use std::borrow::Cow;
use visible::{Reach, Visible};

/// Queries that candle's operations score at a time, so that the scores of a long prompt take
/// `heads · QUERIES · seq` elements and not `heads · seq²`, and keys out of a window's reach are
/// never scored.
const QUERIES: usize = 128;

/// Grouped-query attention as transformers' `eager_attention_forward` computes it: norms of queries and keys
/// (Gemma 3) and of values (Gemma 3n, 4), rotary embedding, soft-capped scores (Gemma 2), sliding window; with keys and
/// values of its own, values that are the keys' projection (Gemma 4), or those of an earlier layer (Gemma 3n, 4).
///
/// Between the projections everything is f32 (f64 in an f64 model).
#[derive(Debug, Clone)]
pub struct Attention {
    projections: Projections,
    o_proj: Linear,
    pub(in crate::model) norms: HeadNorms,
    pub(in crate::model) rope: RotaryEmbedding,
    pub(in crate::model) sliding_window: Option<usize>,
    /// The window behind a query, where it sees both sides and that is not the same.
    pub(in crate::model) sliding_window_behind: Option<usize>,
    /// Whether keys of an encoder's states are rotated to their places there, which no family does.
    pub(in crate::model) rotates_encoder_keys: bool,
    pub(in crate::model) rounding: Option<AttentionRounding>,
    /// What the softmax's scores and weights are rounded to, if to anything.
    pub(in crate::model) softmax_dtype: Option<DType>,
    /// Whether values that are the keys' projection are taken behind its norm, which is wrong.
    pub(in crate::model) values_after_key_norm: bool,
    /// Keys and values that the file has for a layer that shares another's.
    pub(in crate::model) stray: Option<StrayKeys>,
    pub(in crate::model) inputs: InputRoundings,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    causal: bool,
    prefix: Option<Prefix>,
    first_position: usize,
    /// Whether an encoder's states are seen too.
    merged: bool,
    keys: KeysFrom,
    scores: Scores,
    identity: Identity,
}

/// The norms of heads, where a family has them.
#[derive(Debug, Clone, Default)]
pub(in crate::model) struct HeadNorms {
    pub(in crate::model) q: Option<RmsNorm>,
    pub(in crate::model) k: Option<RmsNorm>,
    pub(in crate::model) v: Option<RmsNorm>,
}

impl HeadNorms {
    pub(in crate::model) fn iter_mut(&mut self) -> impl Iterator<Item = &mut RmsNorm> {
        [&mut self.q, &mut self.k, &mut self.v].into_iter().flatten()
    }
}

/// Where keys and values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeysFrom {
    /// A projection each.
    Projections,
    /// One projection for both.
    OneProjection,
    /// An earlier layer.
    Layer(usize),
}

/// How the weights of queries, keys and values are held; those that the layer has.
#[derive(Debug, Clone)]
enum Projections {
    /// Queries', keys', values'.
    Separate(Vec<Linear>),
    /// All in one, packed: queries' rows, then keys', then values'.
    Packed(Linear),
}

/// The keys and values of a call.
#[derive(Debug, Default)]
pub enum Keys<'a> {
    /// Made for the call, and forgotten.
    #[default]
    Own,
    /// Added to those of the tokens so far.
    Kept(&'a mut KeyValues),
    /// Those of another layer, which has added the call's positions already.
    Shared(&'a KeyValues),
}

/// What the queries of a call see.
#[derive(Default)]
struct Seen<'a> {
    keys: Keys<'a>,
    padding: Option<&'a Padding>,
    encoder: Option<Place<'a>>,
}

/// Keys and values as panels.
enum Panelled<'a> {
    /// To which the call's are added.
    Own(&'a mut Panels),
    /// To which another layer has added the call's.
    Shared(Cow<'a, Panels>),
}

/// What queries see beside their own text's keys, and what they do not see of those.
#[derive(Debug, Default)]
pub struct Beside<'a> {
    /// Which positions of the texts are padding.
    pub padding: Option<&'a Padding>,
    /// An encoder's states, of a layer that sees them in the same softmax.
    pub encoder: Option<EncoderKeys<'a>>,
}

impl Attention {
    /// Reads `{q,k,v,o}_proj`, or `qkv_proj` in place of the first three (queries' rows, then keys', then values'), and,
    /// since Gemma 3, `{q,k}_norm`, of a layer: of a layer that shares another's keys and values, what is left of them.
    /// `rope` is that of an earlier layer, if one rotates alike.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape; heads that cannot share key heads equally, or
    /// of an odd width; a sliding window of 0 tokens.
    pub fn new(
        config: &AttentionConfig,
        layer: &LayerAttention,
        stack: &Stack,
        rope: RotaryEmbedding,
        vb: VarBuilder,
    ) -> Result<Self> {
        let LayerAttention { num_key_value_heads: kv_heads, head_dim, .. } = *layer;
        let (heads, hidden_size) = (config.num_attention_heads, stack.hidden_size);
        let no_width = head_dim == 0 || !head_dim.is_multiple_of(2);
        if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) || no_width {
            candle_core::bail!(
                "{heads} heads of width {head_dim} on {kv_heads} key heads: key heads are shared equally, \
                 and rotated heads have an even width"
            )
        }
        if layer.sliding_window == Some(0) {
            candle_core::bail!(
                "a sliding window of 0 tokens, in which no query sees even its own key"
            )
        }
        let Some(rows) = layer.projections(heads) else {
            candle_core::bail!("{heads} heads of width {head_dim} are too large")
        };
        let keys = match (layer.shares, layer.values) {
            (Some(earlier), _) => KeysFrom::Layer(earlier),
            (None, ValuesFrom::Keys) => KeysFrom::OneProjection,
            (None, ValuesFrom::Projection) => KeysFrom::Projections,
        };
        let linear = |columns, rows, bias, name| {
            Ok::<_, Error>(Linear::try_from(linear_b(columns, rows, bias, vb.pp(name))?)?)
        };
        let norm = |name| -> Result<RmsNorm> {
            let weight = vb.pp(name).get(head_dim, "weight")?;
            Ok(RmsNorm::of(weight, stack.norm_weight, stack.rms_norm_eps))
        };
        let projections = match vb.contains_tensor("qkv_proj.weight") {
            true => fused(&rows, hidden_size, config.bias, vb.pp("qkv_proj"))?,
            false => rows
                .iter()
                .map(|&(name, rows)| linear(hidden_size, rows, config.bias, name))
                .collect::<Result<_>>()?,
        };
        let own = !matches!(keys, KeysFrom::Layer(_));
        Ok(Self {
            projections: Projections::Separate(projections),
            o_proj: linear(heads * head_dim, hidden_size, config.output_bias, "o_proj")?,
            norms: HeadNorms {
                q: config.qk_norm.then(|| norm("q_norm")).transpose()?,
                k: (config.qk_norm && own).then(|| norm("k_norm")).transpose()?,
                v: (config.v_norm && own).then(|| RmsNorm::weightless(stack.rms_norm_eps)),
            },
            rope,
            sliding_window: layer.sliding_window,
            sliding_window_behind: layer.sliding_window_behind,
            rotates_encoder_keys: false,
            rounding: None,
            softmax_dtype: None,
            values_after_key_norm: false,
            stray: None,
            inputs: InputRoundings::default(),
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            causal: config.causal,
            prefix: config.prefix,
            first_position: config.first_position,
            merged: matches!(config.cross, Some(CrossAttentionConfig { kind: Cross::Merged, .. })),
            keys,
            scores: Scores { scaling: config.scaling, softcap: config.softcap },
            identity: Identity::new(),
        })
    }

    /// Whether a position sees earlier ones only.
    pub fn is_causal(&self) -> bool {
        self.causal
    }

    /// The earlier layer whose keys and values it uses, if it has none of its own.
    pub fn shares(&self) -> Option<usize> {
        match self.keys {
            KeysFrom::Layer(earlier) => Some(earlier),
            _ => None,
        }
    }

    /// Heads of keys and values: its own, or those of the layer that it shares them with.
    pub fn key_value_heads(&self) -> usize {
        self.num_key_value_heads
    }

    /// Whether it sees an encoder's states beside its own text's.
    pub fn is_merged(&self) -> bool {
        self.merged
    }

    /// Attention of `x`, `[batch, seq, hidden]`, to itself and to the tokens before it, if their keys are kept.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit; keys and values that another model, layer or batch began; of a layer that
    /// shares another's, any that are not shared; of a model with a prefix, keys that are kept of a part of it; of one that
    /// attends to an encoder's states too.
    pub fn forward(&self, x: &Tensor, keys: Keys) -> Result<Tensor> {
        self.forward_beside(x, keys, Beside::default())
    }

    /// [`Self::forward`] with padding in the texts, or an encoder's states beside them.
    ///
    /// # Errors
    /// Those of [`Self::forward`]; padding or states of other texts; states that a layer needs and does not get, or
    /// gets and does not see.
    pub fn forward_beside(&self, x: &Tensor, keys: Keys, beside: Beside) -> Result<Tensor> {
        let (batch, seq, _) = x.dims3()?;
        if let Some(padding) = beside.padding {
            padding.check(batch, seq)?;
        }
        match (self.merged, &beside.encoder) {
            (true, None) => {
                candle_core::bail!("a layer that attends to an encoder's states got none")
            }
            (false, Some(_)) => {
                candle_core::bail!(
                    "a layer that attends to its own text alone got an encoder's states"
                )
            }
            _ => {}
        }
        let mut own = KeyValues::default();
        let encoder = beside.encoder.map(|encoder| encoder.place(batch, &mut own)).transpose()?;
        let seen = Seen { keys, padding: beside.padding, encoder };
        let attended = match &self.projections {
            Projections::Packed(all) if self.is_one_pass(x, seen.encoder.as_ref()) => {
                // [batch, seq, (heads + key heads + value heads) · head_dim]
                self.one_pass(&all.forward(&self.inputs.entering.round(x)?)?, seen)?
            }
            _ => self.composed(x, seen)?,
        };
        self.o_proj.forward(&self.inputs.leaving.round(&attended)?) // [batch, seq, hidden]
    }

    /// Out of candle's operations, which it differentiates: `[batch, seq, heads · head_dim]`.
    fn composed(&self, x: &Tensor, seen: Seen) -> Result<Tensor> {
        let Seen { keys, padding, encoder } = seen;
        let (seq, projected) = (x.dim(1)?, self.projected(x)?);
        let reach = self.reach(&keys, seq)?;
        let (k, v, start) = match keys {
            Keys::Shared(shared) => {
                let (k, v) = shared.tensors(self.num_key_value_heads)?;
                let start = k.dim(2)?.saturating_sub(seq);
                (k, v, start)
            }
            Keys::Own => {
                let [k, v] = self.keys_values(&projected, 0)?;
                (k, v, 0)
            }
            Keys::Kept(kept) => {
                let start = kept.len();
                let [k, v] = self.keys_values(&projected, start)?;
                let (k, v) = kept.append(self.identity, &k, &v)?; // [batch, kv_heads, start + seq, head_dim]
                (k, v, start)
            }
        };
        let q = self.queries(&projected, start)?;
        let encoder = encoder.map(|place| self.encoder_tensors(place)).transpose()?;
        let mixed = self.mixed([&q, &k, &v], start, reach, padding, encoder.as_ref())?;
        mixed.to_dtype(x.dtype())
    }

    /// What queries `[batch, heads, seq, head_dim]`, the first of which is at a position, see of keys and values
    /// `[batch, kv_heads, start + seq, head_dim]`, and of an encoder's: `[batch, seq, heads · head_dim]`.
    fn mixed(
        &self,
        [q, k, v]: [&Tensor; 3],
        start: usize,
        reach: Reach,
        padding: Option<&Padding>,
        encoder: Option<&SeenAll>,
    ) -> Result<Tensor> {
        let seq = q.dim(2)?;
        let rounding = SoftmaxRounding { attention: self.rounding, own: self.softmax_dtype };
        in_runs(q, |q, at| {
            let n = q.dim(2)?;
            let visible =
                Visible { queries: start + at..start + at + n, keys: 0..start + seq, reach };
            let visible = visible.trimmed();
            let seen = |t: &Tensor| t.narrow(2, visible.keys.start, visible.keys.len());
            let (mut k, mut v) = (seen(k)?, seen(v)?);
            let mut mask = visible.mask(padding, q.device())?;
            if let Some(encoder) = encoder {
                (k, v) = (
                    Tensor::cat(&[&k, &encoder.keys], 2)?,
                    Tensor::cat(&[&v, &encoder.values], 2)?,
                );
                mask = encoder.beside(&mask)?;
            }
            attend([q, &k, &v], &mask, self.scores, rounding)
        })
    }

    /// How many positions from a text's first one on all see one another, of a call with so many: the prefix, if the
    /// call begins the text. What comes later sees all of it, as it sees whatever was before.
    fn prefix(&self, keys: &Keys, seq: usize) -> Result<usize> {
        let Some(prefix) = self.prefix else { return Ok(0) };
        let Keys::Kept(kept) = keys else { return Ok(prefix.of(seq)) };
        match prefix {
            _ if !kept.is_empty() => Ok(0),
            Prefix::Tokens(all) if all > seq => candle_core::bail!(
                "the first call with a cache has {seq} tokens of a prefix of {all}: all of it must be in that call"
            ),
            prefix => Ok(prefix.of(seq)),
        }
    }

    /// How far a query sees in a call with so many positions.
    fn reach(&self, keys: &Keys, seq: usize) -> Result<Reach> {
        let before = self.sliding_window.unwrap_or(usize::MAX);
        let behind = self.sliding_window.and(self.sliding_window_behind).unwrap_or(before);
        let behind = if self.causal { 1 } else { behind };
        Ok(Reach { before, behind, prefix: self.prefix(keys, seq)? })
    }

    /// Queries, keys and values of `x`, `[batch, seq, hidden]`, after norms and rotary embedding, in f32 (f64 in an f64
    /// model): `[batch, seq, heads, head_dim]`, of which keys and values have `kv_heads`. Those of another layer are
    /// given back as they are.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit; of a layer that shares another's keys and values, none that are shared.
    pub fn project(&self, x: &Tensor, keys: Keys) -> Result<[Tensor; 3]> {
        let projected = self.projected(x)?;
        let q = self.queries(&projected, 0)?;
        let [k, v] = match keys {
            Keys::Shared(shared) => shared.tensors(self.num_key_value_heads)?.into(),
            Keys::Kept(_) | Keys::Own => self.keys_values(&projected, 0)?,
        };
        Ok([q.transpose(1, 2)?, k.transpose(1, 2)?, v.transpose(1, 2)?])
    }

    /// The rest of attention, from what [`Self::project`] returns, of any floating-point dtype, to the output `[batch,
    /// seq, hidden]` in a dtype.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn forward_projected(&self, qkv: &[Tensor; 3], dtype: DType) -> Result<Tensor> {
        let wide = |x: &Tensor| x.to_dtype(wide_dtype(dtype))?.transpose(1, 2)?.contiguous();
        let [q, k, v] = [wide(&qkv[0])?, wide(&qkv[1])?, wide(&qkv[2])?];
        let reach = self.reach(&Keys::Own, q.dim(2)?)?;
        let mixed = self.mixed([&q, &k, &v], 0, reach, None, None)?.to_dtype(dtype)?;
        self.o_proj.forward(&self.inputs.leaving.round(&mixed)?)
    }

    /// Attention in one pass, out of what the projections return in one.
    fn one_pass(&self, all: &Tensor, seen: Seen) -> Result<Tensor> {
        match all.dtype() {
            DType::F32 => self.one_pass_in::<f32>(all, seen),
            DType::BF16 => self.one_pass_in::<bf16>(all, seen),
            DType::F16 => self.one_pass_in::<f16>(all, seen),
            dtype => Err(Error::UnsupportedDTypeForOp(dtype, "attention")),
        }
    }

    fn one_pass_in<T: Float>(&self, all: &Tensor, seen: Seen) -> Result<Tensor> {
        let Seen { keys, padding, encoder } = seen;
        let (batch, seq, _) = all.dims3()?;
        let shape = (batch, seq, self.num_attention_heads * self.head_dim);
        let heads = batch * self.num_key_value_heads;
        let reach = self.reach(&keys, seq)?;
        let mut own = KeyValues::default();
        let kept = match keys {
            Keys::Own => Panelled::Own(own.panels(self.identity, heads, self.head_dim)?),
            Keys::Kept(kept) => Panelled::Own(kept.panels(self.identity, heads, self.head_dim)?),
            Keys::Shared(shared) => Panelled::Shared(shared.shared_panels(heads, self.head_dim)?),
        };
        let start = match &kept {
            Panelled::Own(kept) => kept.len(),
            Panelled::Shared(kept) => kept.len().saturating_sub(seq),
        };
        let encoder = encoder.map(|place| self.encoder_panels::<T>(place, heads)).transpose()?;
        let query_norm = self.norms.q.as_ref().map(RmsNorm::scale).transpose()?;
        let added = self.added()?;
        let first = start + self.first_position;
        let attended = Rotation::with(Some(&self.rope), first, seq, |rotation| {
            with_slice(all, |all| {
                threads::operation(|| {
                    let kept = match kept {
                        Panelled::Own(kept) => {
                            Added { rotation, ..added }.to::<T>(all, seq, kept);
                            Cow::Borrowed(&*kept)
                        }
                        Panelled::Shared(kept) => kept,
                    };
                    let sight = Sight::Reach(start, reach);
                    let mut sources = vec![Source { panels: &kept, sight, padding }];
                    sources.extend(encoder.map(|(panels, padding)| Source {
                        panels,
                        sight: Sight::All,
                        padding,
                    }));
                    let attention = OnePass {
                        heads: self.num_attention_heads,
                        kv_heads: self.num_key_value_heads,
                        projected: Heads { all: self.all_heads(), head_dim: self.head_dim },
                        query_norm,
                        rotation,
                        scores: self.scores,
                        sources: &sources,
                    };
                    attention.attend::<T>(all, seq)
                })
            })
        })??;
        Tensor::from_vec(attended, shape, &Device::Cpu)
    }

    /// Where its keys and values are in what the projections return.
    fn added(&self) -> Result<Added<'static>> {
        let scale = |norm: &Option<RmsNorm>| norm.as_ref().map(RmsNorm::scale).transpose();
        Ok(Added {
            heads: Heads { all: self.all_heads(), head_dim: self.head_dim },
            kv_heads: self.num_key_value_heads,
            keys_at: self.num_attention_heads,
            values_at: match self.keys {
                // Both from one projection.
                KeysFrom::OneProjection => self.num_attention_heads,
                _ => self.num_attention_heads + self.num_key_value_heads,
            },
            key_norm: scale(&self.norms.k)?,
            value_norm: scale(&self.norms.v)?,
            rotation: Rotation::default(),
        })
    }

    /// What its keys' and values' projections make of an encoder's states: those of keys and those of values, `[batch,
    /// seq, kv_heads · head_dim]` each, side by side.
    fn project_states(&self, states: &Tensor) -> Result<Tensor> {
        let x = self.inputs.entering.round(states)?;
        match &self.projections {
            Projections::Separate(all) => {
                let parts = all[1..].iter().map(|projection| projection.forward(&x));
                Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, D::Minus1)
            }
            Projections::Packed(all) => {
                // A packed matrix is cut at whole panels alone.
                let queries = self.num_attention_heads * self.head_dim;
                let first = queries / PANEL * PANEL;
                let (rows, _) = all.weight().dims()?;
                let bias =
                    all.bias().map(|bias| bias.narrow(0, first, rows - first)).transpose()?;
                let weight = all.weight().narrow(first, rows - first)?;
                let both = Linear::new(weight, bias)?.forward(&x)?;
                both.narrow(2, queries - first, rows - queries)?.contiguous()
            }
        }
    }

    /// Keys and values of an encoder's states, normed, and not rotated: made once and kept.
    fn encoder_tensors<'a>(&self, place: Place<'a>) -> Result<SeenAll<'a>> {
        if !place.is_filled() {
            let both = self.project_states(place.encoded.states())?;
            let width = self.num_key_value_heads * self.head_dim;
            let part = |first: usize| heads(both.narrow(2, first, width)?, self.head_dim);
            let mut k = normed(&self.norms.k, &part(0)?)?;
            if self.rotates_encoder_keys {
                k = self.rotated(k, 0)?;
            }
            let v = normed(&self.norms.v, &part(width)?)?;
            place.kept.append(self.identity, &round(self.rounding, k)?, &v)?;
        }
        SeenAll::of(place, self.num_key_value_heads)
    }

    fn encoder_panels<'a, T: Float>(
        &self,
        place: Place<'a>,
        heads: usize,
    ) -> Result<(&'a Panels, Option<&'a Padding>)> {
        let is_filled = place.is_filled();
        let Place { encoded, kept } = place;
        let panels = kept.panels(self.identity, heads, self.head_dim)?;
        if !is_filled {
            let both = self.project_states(encoded.states())?;
            let seq = both.dim(1)?;
            let all = 2 * self.num_key_value_heads;
            let added = Added {
                heads: Heads { all, head_dim: self.head_dim },
                keys_at: 0,
                values_at: self.num_key_value_heads,
                ..self.added()?
            };
            let rope = self.rotates_encoder_keys.then_some(&self.rope);
            Rotation::with(rope, 0, seq, |rotation| {
                with_slice(&both, |both| {
                    threads::operation(|| Added { rotation, ..added }.to::<T>(both, seq, panels))
                })
            })??;
        }
        Ok((panels, encoded.padding()))
    }

    /// Heads that its projections return, of queries, keys and values together.
    fn all_heads(&self) -> usize {
        let of_keys = match self.keys {
            KeysFrom::Projections => 2,
            KeysFrom::OneProjection => 1,
            KeysFrom::Layer(_) => 0,
        };
        self.num_attention_heads + of_keys * self.num_key_value_heads
    }

    /// Attention with its projections packed, those of queries, keys and values into one.
    pub(super) fn packed(self) -> Result<Self> {
        let projections = match &self.projections {
            Projections::Separate(all) => {
                let all: Vec<_> = all.iter().collect();
                Projections::Packed(Linear::stacked_and_packed(&all)?)
            }
            packed => packed.clone(),
        };
        Ok(Self { projections, o_proj: self.o_proj.packed()?, ..self })
    }

    /// Attention for a backward pass through packed projections, which are constants to it.
    pub(super) fn frozen(&self) -> Self {
        let projections = match &self.projections {
            Projections::Packed(all) => Projections::Packed(all.frozen()),
            Projections::Separate(all) => {
                Projections::Separate(all.iter().map(Linear::frozen).collect())
            }
        };
        Self { projections, o_proj: self.o_proj.frozen(), ..self.clone() }
    }

    /// Whether its values are the keys' projection.
    pub(super) fn has_keys_as_values(&self) -> bool {
        self.keys == KeysFrom::OneProjection
    }

    /// Whether its scores are scaled by `head_dim^(-1/2)`.
    pub(super) fn is_scaled_by_head_dim(&self) -> bool {
        self.scores.scaling == self.by_head_dim()
    }

    /// Scales its scores so.
    pub(super) fn scale_by_head_dim(&mut self) {
        self.scores.scaling = self.by_head_dim();
    }

    fn by_head_dim(&self) -> f64 {
        (self.head_dim as f64).powf(-0.5)
    }

    /// The soft-cap on its scores.
    pub(super) fn softcap(&self) -> Option<f64> {
        self.scores.softcap
    }

    /// Takes it away.
    pub(super) fn remove_softcap(&mut self) {
        self.scores.softcap = None;
    }

    /// What its projections make of `x`, `[batch, seq, hidden]`: queries, then keys and values, if it has them, in f32
    /// (f64 in an f64 model), `[batch, heads, seq, head_dim]` each.
    fn projected(&self, x: &Tensor) -> Result<Vec<Tensor>> {
        let x = self.inputs.entering.round(x)?;
        match &self.projections {
            Projections::Separate(all) => {
                all.iter().map(|projection| heads(projection.forward(&x)?, self.head_dim)).collect()
            }
            Projections::Packed(all) => {
                let all = all.forward(&x)?; // [batch, seq, all heads · head_dim]
                let part = |first: usize, count: usize| {
                    let part = all.narrow(2, first * self.head_dim, count * self.head_dim)?;
                    heads(part, self.head_dim)
                };
                let queries = self.num_attention_heads;
                let of_keys = (queries..self.all_heads()).step_by(self.num_key_value_heads);
                let keys = of_keys.map(|first| part(first, self.num_key_value_heads));
                std::iter::once(part(0, queries)).chain(keys).collect()
            }
        }
    }

    /// Queries, normed and rotated: `[batch, heads, seq, head_dim]`.
    fn queries(&self, projected: &[Tensor], start: usize) -> Result<Tensor> {
        self.rotated(normed(&self.norms.q, &projected[0])?, start)
    }

    /// Its own keys and values, normed, and the keys rotated: `[batch, kv_heads, seq, head_dim]` each.
    fn keys_values(&self, projected: &[Tensor], start: usize) -> Result<[Tensor; 2]> {
        let (k, v) = match (self.keys, projected) {
            (KeysFrom::Projections, [_, k, v]) => (k, v),
            (KeysFrom::OneProjection, [_, k]) => (k, k),
            _ => candle_core::bail!("the keys and values of another layer are not there"),
        };
        let normed_k = normed(&self.norms.k, k)?;
        let v = if self.values_after_key_norm { &normed_k } else { v };
        let v = normed(&self.norms.v, v)?;
        Ok([self.rotated(normed_k, start)?, v])
    }

    fn rotated(&self, x: Tensor, start: usize) -> Result<Tensor> {
        let (x, start) = (round(self.rounding, x)?, start + self.first_position);
        match self.rounding {
            Some(AttentionRounding { rotary_every_op: true, dtype, .. }) => {
                self.rope.apply_rounded(&x, start, dtype)
            }
            rounding => round(rounding, self.rope.apply(&x, start)?),
        }
    }

    /// How many of a text's first tokens may see what comes behind them.
    pub(super) fn seen_ahead(&self) -> usize {
        match self.prefix {
            _ if !self.causal => usize::MAX,
            None => 0,
            Some(prefix) => prefix.of(usize::MAX),
        }
    }

    /// Whether it is computed in one pass, which has no gradient and rounds as norms do that round
    /// once.
    fn is_one_pass(&self, x: &Tensor, encoder: Option<&Place>) -> bool {
        let HeadNorms { q, k, v } = &self.norms;
        let rounds_once = [q, k, v].into_iter().flatten().all(RmsNorm::rounds_once);
        let exact = rounds_once && self.rounding.is_none() && self.softmax_dtype.is_none();
        let exact = exact && !self.values_after_key_norm;
        let tracked = encoder.is_some_and(|place| place.encoded.states().track_op());
        exact && !tracked && !x.track_op() && x.dtype() != DType::F64
    }
}

/// What a projection returned, split into heads and widened: `[batch, heads, seq, head_dim]`.
fn heads(projected: Tensor, head_dim: usize) -> Result<Tensor> {
    let (batch, seq, width) = projected.dims3()?;
    let wide = projected.to_dtype(wide_dtype(projected.dtype()))?;
    wide.reshape((batch, seq, width / head_dim, head_dim))?.transpose(1, 2)?.contiguous()
}

/// What a function makes of queries, `[batch, heads, seq, head_dim]`, some at a time, each with the place of its first:
/// `[batch, seq, heads · head_dim]`.
fn in_runs(q: &Tensor, attend: impl Fn(&Tensor, usize) -> Result<Tensor>) -> Result<Tensor> {
    let seq = q.dim(2)?;
    let runs = (0..seq).step_by(QUERIES);
    let runs = runs.map(|at| attend(&q.narrow(2, at, QUERIES.min(seq - at))?, at));
    let attended = Tensor::cat(&runs.collect::<Result<Vec<_>>>()?, 2)?; // [batch, heads, seq, head_dim]
    attended.transpose(1, 2)?.contiguous()?.flatten_from(D::Minus2)
}

/// Attention of a run of queries, `[batch, heads, n, head_dim]`, to keys and values `[batch, kv_heads, keys, head_dim]`,
/// as far as a mask, `[n, keys]` or `[batch, 1, n, keys]`, shows them.
fn attend(
    [q, k, v]: [&Tensor; 3],
    mask: &Tensor,
    scores: Scores,
    rounding: SoftmaxRounding,
) -> Result<Tensor> {
    let (batch, heads, n, head_dim) = q.dims4()?;
    let kv_heads = k.dim(1)?;
    let rows = heads / kv_heads * n;
    // The query heads that share a key head are one longer list of queries to it.
    let q = q.contiguous()?.reshape((batch, kv_heads, rows, head_dim))?;
    let products = q.matmul(&k.contiguous()?.t()?)?; // [batch, kv_heads, rows, keys]
    let weights = masked_softmax(&products, scores, rounding, mask)?;
    round(rounding.attention, weights.matmul(&v.contiguous()?)?)?
        .reshape((batch, heads, n, head_dim))
}

fn normed(norm: &Option<RmsNorm>, x: &Tensor) -> Result<Tensor> {
    norm.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(x))
}

/// Projections out of one tensor, whose rows follow one another.
fn fused(
    rows: &[(&str, usize)],
    hidden_size: usize,
    bias: bool,
    vb: VarBuilder,
) -> Result<Vec<Linear>> {
    let rows: Vec<usize> = rows.iter().map(|&(_, rows)| rows).collect();
    Linear::try_from(linear_b(hidden_size, rows.iter().sum(), bias, vb)?)?.split(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Config, Rotated};
    use candle_nn::VarMap;
    use std::path::Path;

    const HIDDEN: usize = 16;

    /// Attention with random weights, of which that of norms is 0.1 on average.
    fn attention(config: &AttentionConfig) -> Result<Attention> {
        let varmap = VarMap::new();
        let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
        let layer = config.layers[0];
        let rope = RotaryEmbedding::new(&layer);
        let json = format!(r#"{{"model_type": "gemma3_text", "hidden_size": {HIDDEN}}}"#);
        let stack = Config::parse(&json, Path::new("config.json")).unwrap().stacks.remove(0);
        let attention = Attention::new(config, &layer, &stack, rope, vb)?;
        for var in varmap.all_vars() {
            var.set(&Tensor::randn(
                0f32,
                if var.rank() == 1 { 0.1 } else { 0.5 },
                var.shape(),
                &Device::Cpu,
            )?)?;
        }
        // Its tensors are variables until they are packed.
        attention.packed()
    }

    /// One pass gives what candle's operations give, for heads that fill no panel and heads wider
    /// than a block, across the borders of blocks of positions; and the same bits in parts.
    #[test]
    fn one_pass_agrees_with_candles_operations_and_with_itself_in_parts() -> Result<()> {
        for (heads, kv_heads, head_dim, window, softcap, causal) in [
            (4, 1, 32, None, None, true),
            (4, 2, 10, Some(3), Some(2.0), true),
            (3, 3, 6, Some(513), None, true),
            (2, 1, 34, Some(600), Some(5.0), true),
            (2, 2, 8, Some(40), None, false),
            (2, 1, 516, None, None, true),
        ] {
            let config = AttentionConfig {
                name: "self_attn",
                num_attention_heads: heads,
                bias: false,
                output_bias: false,
                qk_norm: heads != 3,
                v_norm: heads == 2,
                scaling: (head_dim as f64).powf(-0.5),
                softcap,
                causal,
                prefix: (heads == 3).then_some(Prefix::Tokens(400)),
                first_position: usize::from(heads == 3),
                cross: None,
                layers: vec![LayerAttention {
                    num_key_value_heads: kv_heads,
                    head_dim,
                    rotated: match heads {
                        4 => Rotated::Pairs(head_dim / 4),
                        3 => Rotated::First(head_dim / 3 * 2),
                        _ => Rotated::All,
                    },
                    values: if heads == 2 { ValuesFrom::Keys } else { ValuesFrom::Projection },
                    shares: None,
                    sliding_window: window,
                    sliding_window_behind: None,
                    rope_theta: 1e4,
                    rope_factor: 1.0,
                }],
            };
            let attention = attention(&config)?;
            let x = Tensor::randn(0f32, 1., (2, 1101, HIDDEN), &Device::Cpu)?;
            let whole = attention.forward(&x, Keys::Own)?;
            let composed = attention.o_proj.forward(&attention.composed(&x, Seen::default())?)?;
            let difference = (&whole - &composed)?.abs()?.max_all()?.to_scalar::<f32>()?;
            let largest = composed.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(difference < 1e-5 * largest, "{heads} {head_dim}: {difference} of {largest}");
            if causal {
                let (mut cache, mut at, mut parts) = (KeyValues::default(), 0, vec![]);
                for n in [500, 1, 37, 1, 562] {
                    let part = x.narrow(1, at, n)?;
                    parts.push(attention.forward(&part, Keys::Kept(&mut cache))?);
                    at += n;
                }
                let parts = Tensor::cat(&parts, 1)?.flatten_all()?.to_vec1::<f32>()?;
                assert_eq!(parts, whole.flatten_all()?.to_vec1::<f32>()?, "{heads} {head_dim}");
                let wrong = attention.forward(&x.narrow(0, 0, 1)?, Keys::Kept(&mut cache));
                assert!(wrong.unwrap_err().to_string().contains("begin a new cache"));
            }
        }
        Ok(())
    }
}
