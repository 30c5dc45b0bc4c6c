//! Gemma's attention, without a cache: a whole prompt at a time.

use super::norm::RmsNorm;
use super::rope::RotaryEmbedding;
use crate::checkpoint::{AttentionConfig, LayerAttention};
use candle_core::{D, Device, Module, Result, Tensor};
use candle_nn::{Linear, VarBuilder, linear_b};

/// Queries that are scored at a time, so that the scores of a long prompt take
/// `heads · QUERIES · seq` elements and not `heads · seq²`.
const QUERIES: usize = 256;

/// Grouped-query attention as transformers' `eager_attention_forward` computes it, in f32: q/k
/// norms (Gemma 3), rotary embedding, soft-capped scores (Gemma 2), sliding window.
#[derive(Debug, Clone)]
pub struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    qk_norm: Option<(RmsNorm, RmsNorm)>,
    config: AttentionConfig,
    layer: LayerAttention,
}

impl Attention {
    /// Reads `{q,k,v,o}_proj` and, for Gemma 3, `{q,k}_norm`, of the layer with the given index.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape, an index beyond the config's layers.
    pub fn new(
        config: &AttentionConfig,
        index: usize,
        hidden_size: usize,
        eps: f64,
        vb: VarBuilder,
    ) -> Result<Self> {
        let Some(&layer) = config.layers.get(index) else {
            candle_core::bail!("layer {index} of {}", config.layers.len())
        };
        let (queries, keys) = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        );
        let linear = |rows, columns, name| linear_b(rows, columns, config.bias, vb.pp(name));
        let norm = |name| -> Result<RmsNorm> {
            Ok(RmsNorm::new(vb.pp(name).get(config.head_dim, "weight")?, eps))
        };
        Ok(Self {
            q_proj: linear(hidden_size, queries, "q_proj")?,
            k_proj: linear(hidden_size, keys, "k_proj")?,
            v_proj: linear(hidden_size, keys, "v_proj")?,
            o_proj: linear(queries, hidden_size, "o_proj")?,
            qk_norm: match config.qk_norm {
                true => Some((norm("q_norm")?, norm("k_norm")?)),
                false => None,
            },
            config: config.clone(),
            layer,
        })
    }

    /// `[batch, seq, width]` to `[batch, heads, seq, head_dim]`.
    fn heads(&self, x: &Tensor, heads: usize) -> Result<Tensor> {
        let (batch, seq, _) = x.dims3()?;
        x.reshape((batch, seq, heads, self.config.head_dim))?.transpose(1, 2)?.contiguous()
    }

    /// Attention of queries `at..at + n` to all keys.
    ///
    /// `q` is `[batch, heads, n, head_dim]`, `k` and `v` are `[batch, kv_heads, seq, head_dim]`.
    fn attend(&self, q: &Tensor, k: &Tensor, v: &Tensor, at: usize) -> Result<Tensor> {
        let (batch, heads, n, head_dim) = q.dims4()?;
        let (kv_heads, seq) = (k.dim(1)?, k.dim(2)?);
        let groups = heads / kv_heads;
        // The query heads that share a key head are one longer list of queries to it.
        let q = q.reshape((batch, kv_heads, groups * n, head_dim))?;
        let scores = (q.matmul(&k.t()?)? * self.config.scaling)?; // [batch, kv_heads, groups * n, seq]
        let scores = match self.config.softcap {
            Some(cap) => ((scores / cap)?.tanh()? * cap)?,
            None => scores,
        };
        let mask = self.mask(at, n, seq, q.device())?; // [n, seq]
        let scores = scores.reshape((batch, heads, n, seq))?.broadcast_add(&mask)?;
        let weights = candle_nn::ops::softmax_last_dim(&scores)?; // [batch, heads, n, seq]
        let weights = weights.reshape((batch, kv_heads, groups * n, seq))?;
        weights.matmul(v)?.reshape((batch, heads, n, head_dim))
    }

    /// 0 where a query may look, -∞ elsewhere: `[n, seq]`.
    fn mask(&self, at: usize, n: usize, seq: usize, device: &Device) -> Result<Tensor> {
        let window = self.layer.sliding_window.unwrap_or(usize::MAX);
        let visible =
            |q: usize, k: usize| q.abs_diff(k) < window && (k <= q || !self.config.causal);
        let mask: Vec<f32> = (at..at + n)
            .flat_map(|q| {
                (0..seq).map(move |k| if visible(q, k) { 0.0 } else { f32::NEG_INFINITY })
            })
            .collect();
        Tensor::from_vec(mask, (n, seq), device)
    }
}

impl Module for Attention {
    /// `[batch, seq, hidden]` in f32 to the same shape.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let config = &self.config;
        let seq = x.dim(1)?;
        let mut q = self.heads(&self.q_proj.forward(x)?, config.num_attention_heads)?; // [batch, heads, seq, head_dim]
        let mut k = self.heads(&self.k_proj.forward(x)?, config.num_key_value_heads)?; // [batch, kv_heads, seq, head_dim]
        let v = self.heads(&self.v_proj.forward(x)?, config.num_key_value_heads)?; // [batch, kv_heads, seq, head_dim]
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            (q, k) = (q_norm.forward(&q)?, k_norm.forward(&k)?);
        }
        let rope = RotaryEmbedding::new(&self.layer, config.head_dim, seq, x.device())?;
        (q, k) = (rope.apply(&q)?, rope.apply(&k)?);
        let chunks = (0..seq).step_by(QUERIES).map(|at| {
            let q = q.narrow(2, at, QUERIES.min(seq - at))?.contiguous()?;
            self.attend(&q, &k, &v, at)
        });
        let attended = Tensor::cat(&chunks.collect::<Result<Vec<_>>>()?, 2)?; // [batch, heads, seq, head_dim]
        self.o_proj.forward(&attended.transpose(1, 2)?.contiguous()?.flatten_from(D::Minus2)?)
    }
}
