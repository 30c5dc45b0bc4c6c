//! Gemma's attention, with or without a cache.

mod cache;
mod one_pass;
mod rounding;
mod softmax;
mod visible;

pub use cache::KeyValues;
pub use rounding::AttentionRounding;

use super::identity::Identity;
use super::norm::{RmsNorm, wide_dtype};
use super::rope::RotaryEmbedding;
use crate::checkpoint::{AttentionConfig, LayerAttention};
use crate::kernels::linear::{InputRounding, Linear};
use crate::kernels::number::Float;
use crate::kernels::operands::with_slice;
use crate::kernels::threads;
use cache::{FOREIGN, Kept, Panels};
use candle_core::{D, DType, Device, Error, Module, Result, Tensor};
use candle_nn::kv_cache::KvCache;
use candle_nn::{VarBuilder, linear_b};
use half::{bf16, f16};
use one_pass::OnePass;
use rounding::round;
use softmax::{Scores, masked_softmax};
use visible::Visible;

/// Queries that candle's operations score at a time, so that the scores of a long prompt take
/// `heads · QUERIES · seq` elements and not `heads · seq²`, and keys out of a window's reach are
/// never scored.
const QUERIES: usize = 128;

/// Positions by which a cache of tensors grows.
const CACHE_STEP: usize = 256;

/// Grouped-query attention as transformers' `eager_attention_forward` computes it: q/k norms
/// (Gemma 3), rotary embedding, soft-capped scores (Gemma 2), sliding window.
///
/// Between the projections everything is f32 (f64 in an f64 model).
#[derive(Debug, Clone)]
pub struct Attention {
    qkv: Projections,
    o_proj: Linear,
    pub(in crate::model) qk_norm: Option<(RmsNorm, RmsNorm)>,
    pub(in crate::model) rope: RotaryEmbedding,
    pub(in crate::model) sliding_window: Option<usize>,
    pub(in crate::model) rounding: Option<AttentionRounding>,
    pub(in crate::model) inputs: InputRounding,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    causal: bool,
    scores: Scores,
    identity: Identity,
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
    /// Reads `{q,k,v,o}_proj`, or `qkv_proj` in place of the first three (queries' rows, then keys', then values'), and,
    /// for Gemma 3, `{q,k}_norm`, of a layer. `rope` is that of an
    /// earlier layer, if one rotates alike.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape; heads that cannot share key heads equally, or
    /// of an odd width; a sliding window of 0 tokens.
    pub fn new(
        config: &AttentionConfig,
        layer: &LayerAttention,
        hidden_size: usize,
        eps: f64,
        rope: RotaryEmbedding,
        vb: VarBuilder,
    ) -> Result<Self> {
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        let no_width = config.head_dim == 0 || !config.head_dim.is_multiple_of(2);
        if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) || no_width {
            candle_core::bail!(
                "{heads} heads of width {} on {kv_heads} key heads: key heads are shared equally, \
                 and rotated heads have an even width",
                config.head_dim
            )
        }
        if layer.sliding_window == Some(0) {
            candle_core::bail!(
                "a sliding window of 0 tokens, in which no query sees even its own key"
            )
        }
        let Some(queries) = heads.checked_mul(config.head_dim) else {
            candle_core::bail!("{heads} heads of width {} are too large", config.head_dim)
        };
        let keys = kv_heads * config.head_dim; // no more than the queries
        let linear = |columns, rows, name| {
            Ok::<_, Error>(Linear::try_from(linear_b(columns, rows, config.bias, vb.pp(name))?)?)
        };
        let norm = |name| -> Result<RmsNorm> {
            Ok(RmsNorm::new(vb.pp(name).get(config.head_dim, "weight")?, eps))
        };
        Ok(Self {
            qkv: if vb.contains_tensor("qkv_proj.weight") {
                let fused =
                    linear_b(hidden_size, queries + 2 * keys, config.bias, vb.pp("qkv_proj"))?;
                let rows = |start, len| -> Result<Linear> {
                    let weight = fused.weight().narrow(0, start, len)?.contiguous()?;
                    let bias = fused.bias().map(|bias| bias.narrow(0, start, len)).transpose()?;
                    Ok(Linear::try_from(candle_nn::Linear::new(weight, bias))?)
                };
                Projections::Separate {
                    q: rows(0, queries)?,
                    k: rows(queries, keys)?,
                    v: rows(queries + keys, keys)?,
                }
            } else {
                Projections::Separate {
                    q: linear(hidden_size, queries, "q_proj")?,
                    k: linear(hidden_size, keys, "k_proj")?,
                    v: linear(hidden_size, keys, "v_proj")?,
                }
            },
            o_proj: linear(queries, hidden_size, "o_proj")?,
            qk_norm: match config.qk_norm {
                true => Some((norm("q_norm")?, norm("k_norm")?)),
                false => None,
            },
            rope,
            sliding_window: layer.sliding_window,
            rounding: None,
            inputs: InputRounding::Exact,
            num_attention_heads: config.num_attention_heads,
            num_key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            causal: config.causal,
            scores: Scores { scaling: config.scaling, softcap: config.softcap },
            identity: Identity::new(),
        })
    }

    /// Attention of `x`, `[batch, seq, hidden]`, to itself and to what is in the cache, to which
    /// its keys and values are added.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit; a cache that another model or batch began.
    pub fn forward(&self, x: &Tensor, cache: Option<&mut KeyValues>) -> Result<Tensor> {
        let attended = match &self.qkv {
            Projections::Packed(qkv) if self.is_one_pass(x)? => {
                self.one_pass(&qkv.forward(&self.inputs.round(x)?)?, cache)? // of [batch, seq, (heads + 2 kv_heads) · head_dim]
            }
            _ => self.composed(x, cache)?,
        };
        self.o_proj.forward(&self.inputs.round(&attended)?) // [batch, seq, hidden]
    }

    /// Out of candle's operations, which it differentiates: `[batch, seq, heads · head_dim]`.
    fn composed(&self, x: &Tensor, cache: Option<&mut KeyValues>) -> Result<Tensor> {
        let cache = match cache {
            Some(cache) => {
                let kept = cache.of(self.identity)?;
                match kept.get_or_insert_with(|| Kept::Tensors(KvCache::new(2, CACHE_STEP))) {
                    Kept::Tensors(cache) => Some(cache),
                    Kept::Panels(_) => candle_core::bail!("{FOREIGN}"),
                }
            }
            None => None,
        };
        let start = cache.as_ref().map_or(0, |cache| cache.current_seq_len());
        let [q, mut k, mut v] = self.queries_keys_values(x, start)?;
        if let Some(cache) = cache {
            (k, v) = cache.append(&k.contiguous()?, &v.contiguous()?)?; // [batch, kv_heads, start + seq, head_dim]
        }
        self.mixed([&q, &k, &v], start)?.to_dtype(x.dtype())
    }

    /// What queries `[batch, heads, seq, head_dim]`, the first of which is at a position, see of keys and values
    /// `[batch, kv_heads, start + seq, head_dim]`: `[batch, seq, heads · head_dim]`.
    fn mixed(&self, [q, k, v]: [&Tensor; 3], start: usize) -> Result<Tensor> {
        let seq = q.dim(2)?;
        let chunks = (0..seq).step_by(QUERIES).map(|at| {
            let n = QUERIES.min(seq - at);
            let visible = Visible {
                queries: start + at..start + at + n,
                keys: 0..start + seq,
                window: self.sliding_window.unwrap_or(usize::MAX),
                causal: self.causal,
            };
            self.attend(&q.narrow(2, at, n)?, k, v, visible.trimmed())
        });
        let attended = Tensor::cat(&chunks.collect::<Result<Vec<_>>>()?, 2)?; // [batch, heads, seq, head_dim]
        attended.transpose(1, 2)?.contiguous()?.flatten_from(D::Minus2)
    }

    /// Queries, keys and values of `x`, `[batch, seq, hidden]`, after norms and rotary embedding, in f32 (f64 in an f64
    /// model): `[batch, seq, heads, head_dim]`, of which keys and values have `kv_heads`.
    ///
    /// # Errors
    /// candle's, for shapes that do not fit.
    pub fn project(&self, x: &Tensor) -> Result<[Tensor; 3]> {
        let [q, k, v] = self.queries_keys_values(x, 0)?;
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
        let mixed = self.mixed([&q, &k, &v], 0)?.to_dtype(dtype)?;
        self.o_proj.forward(&self.inputs.round(&mixed)?)
    }

    /// Attention in one pass, out of what the projections return in one.
    fn one_pass(&self, all: &Tensor, cache: Option<&mut KeyValues>) -> Result<Tensor> {
        match all.dtype() {
            DType::F32 => self.one_pass_in::<f32>(all, cache),
            DType::BF16 => self.one_pass_in::<bf16>(all, cache),
            DType::F16 => self.one_pass_in::<f16>(all, cache),
            dtype => Err(Error::UnsupportedDTypeForOp(dtype, "attention")),
        }
    }

    fn one_pass_in<T: Float>(&self, all: &Tensor, cache: Option<&mut KeyValues>) -> Result<Tensor> {
        let (batch, seq, _) = all.dims3()?;
        let shape = (batch, seq, self.num_attention_heads * self.head_dim);
        let heads = batch * self.num_key_value_heads;
        let mut own = KeyValues::default();
        let kept = cache.unwrap_or(&mut own).of(self.identity)?;
        let kept = match kept.get_or_insert_with(|| Kept::Panels(Panels::new(heads, self.head_dim)))
        {
            Kept::Panels(kept) if kept.heads() == heads => kept,
            _ => candle_core::bail!("{FOREIGN}"),
        };
        let norms = match &self.qk_norm {
            Some((q, k)) => Some((q.scale()?, k.scale()?)),
            None => None,
        };
        let (cos, sin) = self.rope.rows(kept.len(), seq, all.device())?; // [seq, head_dim / 2]
        let attended = with_slice(all, |all| {
            with_slice(&cos, |cos| {
                with_slice(&sin, |sin| {
                    let attention = OnePass {
                        heads: self.num_attention_heads,
                        kv_heads: self.num_key_value_heads,
                        head_dim: self.head_dim,
                        norms,
                        rope: (cos, sin),
                        scores: self.scores,
                        sliding_window: self.sliding_window,
                        causal: self.causal,
                    };
                    threads::operation(|| attention.attend::<T>(all, seq, kept))
                })
            })
        })???;
        Tensor::from_vec(attended, shape, &Device::Cpu)
    }

    /// Attention with its projections packed, those of queries, keys and values into one.
    pub(super) fn packed(self) -> Result<Self> {
        let qkv = match &self.qkv {
            Projections::Separate { q, k, v } => {
                Projections::Packed(Linear::stacked(&[q, k, v])?.packed()?)
            }
            packed => packed.clone(),
        };
        Ok(Self { qkv, o_proj: self.o_proj.packed()?, ..self })
    }

    /// Attention for a backward pass through packed projections, which are constants to it.
    pub(super) fn frozen(&self) -> Self {
        let qkv = match &self.qkv {
            Projections::Packed(qkv) => Projections::Packed(qkv.frozen()),
            separate => separate.clone(),
        };
        Self { qkv, o_proj: self.o_proj.frozen(), ..self.clone() }
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

    /// Queries, keys and values of `x` in f32 (f64 in an f64 model), normed and rotated:
    /// `[batch, heads, seq, head_dim]` each.
    fn queries_keys_values(&self, x: &Tensor, start: usize) -> Result<[Tensor; 3]> {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        let x = &self.inputs.round(x)?;
        let projected = match &self.qkv {
            Projections::Separate { q, k, v } => [q.forward(x)?, k.forward(x)?, v.forward(x)?],
            Projections::Packed(qkv) => {
                let all = qkv.forward(x)?; // [batch, seq, (heads + 2 kv_heads) · head_dim]
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
        let rotated = |x| -> Result<Tensor> {
            let x = round(self.rounding, x)?;
            match self.rounding {
                Some(AttentionRounding { rotary_every_op: true, dtype, .. }) => {
                    self.rope.apply_rounded(&x, start, dtype)
                }
                rounding => round(rounding, self.rope.apply(&x, start)?),
            }
        };
        (q, k) = (rotated(q)?, rotated(k)?);
        Ok([q, k, wide(v, kv_heads)?])
    }

    /// Whether it is computed in one pass, which has no gradient and rounds as norms do that round
    /// once.
    fn is_one_pass(&self, x: &Tensor) -> Result<bool> {
        let rounds_once = match &self.qk_norm {
            Some((q, k)) => q.rounds_once() && k.rounds_once(),
            None => true,
        };
        let exact = rounds_once && self.rounding.is_none();
        Ok(exact && !x.track_op() && x.dtype() != DType::F64)
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
        let weights = masked_softmax(&scores, self.scores, self.rounding, &visible)?;
        round(self.rounding, weights.matmul(&seen(v)?)?)?.reshape((batch, heads, n, head_dim))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_nn::VarMap;

    const HIDDEN: usize = 16;

    /// Attention with random weights, of which that of norms is 0.1 on average.
    fn attention(config: &AttentionConfig) -> Result<Attention> {
        let varmap = VarMap::new();
        let vb = VarBuilder::from_varmap(&varmap, DType::F32, &Device::Cpu);
        let layer = config.layers[0];
        let rope = RotaryEmbedding::new(&layer, config.head_dim);
        let attention = Attention::new(config, &layer, HIDDEN, 1e-6, rope, vb)?;
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
                num_attention_heads: heads,
                num_key_value_heads: kv_heads,
                head_dim,
                bias: false,
                qk_norm: heads != 3,
                scaling: (head_dim as f64).powf(-0.5),
                softcap,
                causal,
                layers: vec![LayerAttention {
                    sliding_window: window,
                    rope_theta: 1e4,
                    rope_factor: 1.0,
                }],
            };
            let attention = attention(&config)?;
            let x = Tensor::randn(0f32, 1., (2, 1101, HIDDEN), &Device::Cpu)?;
            let whole = attention.forward(&x, None)?;
            let composed = attention.o_proj.forward(&attention.composed(&x, None)?)?;
            let difference = (&whole - &composed)?.abs()?.max_all()?.to_scalar::<f32>()?;
            let largest = composed.abs()?.max_all()?.to_scalar::<f32>()?;
            assert!(difference < 1e-5 * largest, "{heads} {head_dim}: {difference} of {largest}");
            if causal {
                let (mut cache, mut at, mut parts) = (KeyValues::default(), 0, vec![]);
                for n in [500, 1, 37, 1, 562] {
                    let part = x.narrow(1, at, n)?;
                    parts.push(attention.forward(&part, Some(&mut cache))?);
                    at += n;
                }
                let parts = Tensor::cat(&parts, 1)?.flatten_all()?.to_vec1::<f32>()?;
                assert_eq!(parts, whole.flatten_all()?.to_vec1::<f32>()?, "{heads} {head_dim}");
                let wrong = attention.forward(&x.narrow(0, 0, 1)?, Some(&mut cache));
                assert!(wrong.unwrap_err().to_string().contains("begin a new cache"));
            }
        }
        Ok(())
    }
}
