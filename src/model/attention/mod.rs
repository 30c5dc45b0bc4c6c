//! Gemma's attention, with or without a cache.

mod heads;
mod softmax;
mod visible;

use super::norm::{RmsNorm, wide_dtype};
use super::rope::RotaryEmbedding;
use crate::checkpoint::{AttentionConfig, LayerAttention};
use crate::linear::Linear;
use candle_core::{D, DType, Module, Result, Tensor};
use candle_nn::kv_cache::KvCache;
use candle_nn::{VarBuilder, linear_b};
use heads::{Split, merge};
use softmax::{Scores, softmax};
use visible::Visible;

/// Queries that are scored at a time, so that the scores of a long prompt take
/// `heads · QUERIES · seq` elements and not `heads · seq²`, and keys out of a window's reach are
/// never scored.
const QUERIES: usize = 128;

/// Grouped-query attention as transformers' `eager_attention_forward` computes it: q/k norms
/// (Gemma 3), rotary embedding, soft-capped scores (Gemma 2), sliding window.
///
/// Between the projections everything is f32 (f64 in an f64 model).
#[derive(Debug, Clone)]
pub struct Attention {
    qkv: Projections,
    o_proj: Linear,
    pub(crate) qk_norm: Option<(RmsNorm, RmsNorm)>,
    pub(crate) rope: RotaryEmbedding,
    pub(crate) sliding_window: Option<usize>,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    causal: bool,
    scores: Scores,
}

/// How the weights of queries, keys and values are held.
#[derive(Debug, Clone)]
enum Projections {
    Separate {
        q: Linear,
        k: Linear,
        v: Linear,
    },
    /// All in one, packed: queries' rows, then keys', then values'.
    Packed(Linear),
}

impl Attention {
    /// Reads `{q,k,v,o}_proj` and, for Gemma 3, `{q,k}_norm`, of a layer. `rope` is that of an
    /// earlier layer, if one rotates alike.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn new(
        config: &AttentionConfig,
        layer: &LayerAttention,
        hidden_size: usize,
        eps: f64,
        rope: RotaryEmbedding,
        vb: VarBuilder,
    ) -> Result<Self> {
        let (queries, keys) = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        );
        let linear = |columns, rows, name| {
            linear_b(columns, rows, config.bias, vb.pp(name)).map(Linear::from)
        };
        let norm = |name| -> Result<RmsNorm> {
            Ok(RmsNorm::new(vb.pp(name).get(config.head_dim, "weight")?, eps))
        };
        Ok(Self {
            qkv: Projections::Separate {
                q: linear(hidden_size, queries, "q_proj")?,
                k: linear(hidden_size, keys, "k_proj")?,
                v: linear(hidden_size, keys, "v_proj")?,
            },
            o_proj: linear(queries, hidden_size, "o_proj")?,
            qk_norm: match config.qk_norm {
                true => Some((norm("q_norm")?, norm("k_norm")?)),
                false => None,
            },
            rope,
            sliding_window: layer.sliding_window,
            num_attention_heads: config.num_attention_heads,
            num_key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            causal: config.causal,
            scores: Scores { scaling: config.scaling, softcap: config.softcap },
        })
    }

    /// Attention of `x`, `[batch, seq, hidden]`, to itself and to what is in the cache, to which
    /// its keys and values are added.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn forward(&self, x: &Tensor, cache: Option<&mut KvCache>) -> Result<Tensor> {
        let seq = x.dim(1)?;
        let start = cache.as_ref().map_or(0, |cache| cache.current_seq_len());
        let [q, mut k, mut v] = self.queries_keys_values(x, start)?;
        if let Some(cache) = cache {
            (k, v) = cache.append(&k.contiguous()?, &v.contiguous()?)?; // [batch, kv_heads, start + seq, head_dim]
        }
        let chunks = (0..seq).step_by(QUERIES).map(|at| {
            let n = QUERIES.min(seq - at);
            let visible = Visible {
                queries: start + at..start + at + n,
                keys: 0..start + seq,
                window: self.sliding_window.unwrap_or(usize::MAX),
                causal: self.causal,
            };
            self.attend(&q.narrow(2, at, n)?, &k, &v, visible.trimmed())
        });
        let attended = Tensor::cat(&chunks.collect::<Result<Vec<_>>>()?, 2)?; // [batch, heads, seq, head_dim]
        let merged = match self.is_fused(x)? {
            true => merge(&attended, x.dtype())?,
            false => {
                let merged = attended.transpose(1, 2)?.contiguous()?.flatten_from(D::Minus2)?;
                merged.to_dtype(x.dtype())?
            }
        };
        self.o_proj.forward(&merged) // [batch, seq, hidden]
    }

    /// The same with its projections packed, those of queries, keys and values into one.
    pub(super) fn packed(self) -> Result<Self> {
        let qkv = match &self.qkv {
            Projections::Separate { q, k, v } => {
                Projections::Packed(Linear::stacked(&[q, k, v])?.packed()?)
            }
            packed => packed.clone(),
        };
        Ok(Self { qkv, o_proj: self.o_proj.packed()?, ..self })
    }

    /// The factor on its scores, to be changed.
    pub(crate) fn scaling_mut(&mut self) -> &mut f64 {
        &mut self.scores.scaling
    }

    /// The soft-cap on its scores, to be changed.
    pub(crate) fn softcap_mut(&mut self) -> &mut Option<f64> {
        &mut self.scores.softcap
    }

    /// Queries, keys and values of `x` in f32 (f64 in an f64 model), normed and rotated:
    /// `[batch, heads, seq, head_dim]` each.
    fn queries_keys_values(&self, x: &Tensor, start: usize) -> Result<[Tensor; 3]> {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        let projected = match &self.qkv {
            Projections::Separate { q, k, v } => [q.forward(x)?, k.forward(x)?, v.forward(x)?],
            Projections::Packed(qkv) => {
                let all = qkv.forward(x)?; // [batch, seq, (heads + 2 kv_heads) · head_dim]
                if self.is_fused(x)? {
                    return self.split(&all, start);
                }
                let part = |first: usize, heads: usize| {
                    all.narrow(2, first * self.head_dim, heads * self.head_dim)
                };
                [part(0, heads)?, part(heads, kv_heads)?, part(heads + kv_heads, kv_heads)?]
            }
        };
        let [mut q, mut k, v] = projected;
        let wide = |x: Tensor, heads| self.heads(x, heads);
        (q, k) = (wide(q, heads)?, wide(k, kv_heads)?);
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            (q, k) = (q_norm.forward(&q)?, k_norm.forward(&k)?);
        }
        (q, k) = (self.rope.apply(&q, start)?, self.rope.apply(&k, start)?);
        Ok([q, k, wide(v, kv_heads)?])
    }

    /// Whether heads are split and put together in one pass, which has no gradient and rounds as
    /// norms do that round once.
    fn is_fused(&self, x: &Tensor) -> Result<bool> {
        let packed = matches!(self.qkv, Projections::Packed(_));
        let rounds_once = match &self.qk_norm {
            Some((q, k)) => q.rounds_once() && k.rounds_once(),
            None => true,
        };
        Ok(packed && rounds_once && !x.track_op() && x.dtype() != DType::F64)
    }

    /// The same out of all projections in one.
    fn split(&self, all: &Tensor, start: usize) -> Result<[Tensor; 3]> {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        let rope = || self.rope.rows(start, all.dim(1)?, all.device()).map(Some);
        let (q_norm, k_norm) = match &self.qk_norm {
            Some((q, k)) => (Some(q.scale()?), Some(k.scale()?)),
            None => (None, None),
        };
        let split = |first: usize, heads, norm, rope| {
            let (first, head_dim) = (first * self.head_dim, self.head_dim);
            Split { first, heads, head_dim, norm }.apply(all, rope)
        };
        Ok([
            split(0, heads, q_norm, rope()?)?,
            split(heads, kv_heads, k_norm, rope()?)?,
            split(heads + kv_heads, kv_heads, None, None)?,
        ])
    }

    /// What a projection returned, split into heads and widened: `[batch, heads, seq, head_dim]`.
    fn heads(&self, projected: Tensor, heads: usize) -> Result<Tensor> {
        let (batch, seq, _) = projected.dims3()?;
        let wide = projected.to_dtype(wide_dtype(projected.dtype()))?;
        wide.reshape((batch, seq, heads, self.head_dim))?.transpose(1, 2)?.contiguous()
    }

    /// Attention of a run of queries, `[batch, heads, n, head_dim]`, to the keys they see, out of
    /// `k` and `v`, `[batch, kv_heads, all keys, head_dim]`.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, visible: Visible) -> Result<Tensor> {
        let (batch, heads, n, head_dim) = q.dims4()?;
        let kv_heads = k.dim(1)?;
        let rows = heads / kv_heads * n;
        let seen = |t: &Tensor| t.narrow(2, visible.keys.start, visible.keys.len())?.contiguous();
        // The query heads that share a key head are one longer list of queries to it.
        let q = q.contiguous()?.reshape((batch, kv_heads, rows, head_dim))?;
        let scores = q.matmul(&seen(k)?.t()?)?; // [batch, kv_heads, rows, keys]
        let weights = softmax(&scores, self.scores, &visible)?;
        weights.matmul(&seen(v)?)?.reshape((batch, heads, n, head_dim))
    }
}
