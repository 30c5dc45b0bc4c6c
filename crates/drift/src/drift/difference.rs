//! The mistakes that people make when they port Gemma, as variations of a model that computes it
//! right. An entry of the list below is all that a difference needs.

use candle_core::DType;
use gemma_mlp::model::{NormRounding, RopeRounding, Variation};
use gemma_mlp::{Activation, Gelu};

/// A documented way to compute Gemma differently.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Difference {
    /// What is different.
    pub name: &'static str,
    /// Where it comes from, or who does it.
    pub source: &'static str,
    /// How it comes about.
    pub change: Change,
}

/// How a difference is brought about.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Change {
    /// Variations of the model, one on top of the other.
    Model(&'static [Variation]),
    /// The text without its first token.
    NoBos,
    /// Another dtype for the whole model.
    DType(DType),
}

use Change::Model;
use Variation as V;

/// All differences that are known.
pub static DIFFERENCES: &[Difference] = &[
    Difference {
        name: "GELU: exact (erf)",
        source: "gemma_pytorch before issue 33; candle 0.11 on Gemma 1's config",
        change: Model(&[V::Activation(Activation::Gelu(Gelu::Exact))]),
    },
    Difference {
        name: "GELU: tanh",
        source: "any model that was trained with the exact form",
        change: Model(&[V::Activation(Activation::Gelu(Gelu::Tanh))]),
    },
    Difference {
        name: "GELU: SiLU in its place",
        source: "candle-transformers 0.11's quantized Gemma 3; Llama's block",
        change: Model(&[V::Activation(Activation::Silu)]),
    },
    Difference {
        name: "GELU: x*sigmoid(1.702x)",
        source: "transformers' quick_gelu, as in CLIP",
        change: Model(&[V::Activation(Activation::QuickGelu)]),
    },
    Difference {
        name: "embedding scale rounded to bf16",
        source: "transformers' own bf16 models, whose scale is a buffer in the weights' dtype",
        change: Model(&[V::EmbeddingScaleRounded(DType::BF16)]),
    },
    Difference {
        name: "embedding not scaled",
        source: "Llama's embedding",
        change: Model(&[V::EmbeddingNotScaled]),
    },
    Difference {
        name: "norm: w in place of 1+w",
        source: "Llama's RMSNorm",
        change: Model(&[V::NormWithoutOne]),
    },
    Difference {
        name: "norm: 1+w rounded to bf16",
        source: "a weight that is stored as 1+w, as GGUF files in bf16 do",
        change: Model(&[V::NormWeightRounded(DType::BF16)]),
    },
    Difference {
        name: "norm: output rounded to bf16",
        source: "a norm in a bf16 model, alone",
        change: Model(&[V::NormRounding(NormRounding::Output(DType::BF16))]),
    },
    Difference {
        name: "norm: Llama's order of rounding to bf16",
        source: "transformers pull request 29402, before it",
        change: Model(&[
            V::NormWeightRounded(DType::BF16),
            V::NormRounding(NormRounding::BeforeWeight(DType::BF16)),
        ]),
    },
    Difference {
        name: "norm: all in bf16",
        source: "DeepMind's own JAX code in a bf16 model",
        change: Model(&[V::NormRounding(NormRounding::EveryOp(DType::BF16))]),
    },
    Difference {
        name: "q/k norm left out",
        source: "Gemma 2's attention on Gemma 3's weights",
        change: Model(&[V::QkNormLeftOut]),
    },
    Difference {
        name: "RoPE: cosine and sine rounded to bf16",
        source: "transformers' own bf16 models",
        change: Model(&[V::RopeRounding(RopeRounding::Tables(DType::BF16))]),
    },
    Difference {
        name: "RoPE: inverse frequencies rounded to bf16",
        source: "a buffer that is cast along with the model",
        change: Model(&[V::RopeRounding(RopeRounding::Frequencies(DType::BF16))]),
    },
    Difference {
        name: "RoPE: all in bf16, positions too",
        source: "candle-transformers 0.11's Gemma 3 in bf16",
        change: Model(&[V::RopeRounding(RopeRounding::Everything(DType::BF16))]),
    },
    Difference {
        name: "RoPE: the global base in every layer",
        source: "a port that reads rope_theta alone",
        change: Model(&[V::RopeGlobal]),
    },
    Difference {
        name: "RoPE: the local base in every layer",
        source: "a port that overlooks rope_theta",
        change: Model(&[V::RopeLocal]),
    },
    Difference {
        name: "sliding window ignored",
        source: "a port with full attention in every layer",
        change: Model(&[V::WindowIgnored]),
    },
    Difference {
        name: "encoder: sliding window of one reach to both sides",
        source: "T5Gemma 2's encoder with Gemma 3's window, half of it to each side",
        change: Model(&[V::WindowSymmetric]),
    },
    Difference {
        name: "cross attention: keys of the encoder's states rotated",
        source: "T5Gemma 2's merged attention, with all its keys rotated alike",
        change: Model(&[V::EncoderKeysRotated]),
    },
    Difference {
        name: "sliding window one shorter",
        source: "off by one",
        change: Model(&[V::WindowLonger(-1)]),
    },
    Difference {
        name: "sliding window one longer",
        source: "candle-transformers 0.11's masks of Gemma 2 and 3",
        change: Model(&[V::WindowLonger(1)]),
    },
    Difference {
        name: "attention scaled by head_dim",
        source: "candle-transformers 0.11's Gemma 2 and 3, which read no query_pre_attn_scalar (27B)",
        change: Model(&[V::ScaledByHeadDim]),
    },
    Difference {
        name: "soft-caps left out",
        source: "attention kernels without soft-capping, on Gemma 2",
        change: Model(&[V::SoftcapsLeftOut]),
    },
    Difference {
        name: "no BOS",
        source: "a tokenizer without its post-processor",
        change: Change::NoBos,
    },
    Difference {
        name: "yardstick: the whole model in bf16",
        source: "how Gemma is mostly run",
        change: Change::DType(DType::BF16),
    },
    Difference {
        name: "yardstick: the whole model in f64",
        source: "the rounding of f32 itself",
        change: Change::DType(DType::F64),
    },
];
