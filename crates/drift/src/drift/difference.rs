//! The mistakes that people make when they port Gemma, as variations of a model that computes it
//! right. An entry of the list below is all that a difference needs.

use candle_core::DType;
use gemma_mlp::checkpoint::Mixture;
use gemma_mlp::model::{NormRounding, PartialRope, RopeRounding, Variation};
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
    /// Variations of the model, one on top of the other, of which those that do not apply change nothing.
    Model(&'static [Variation]),
    /// The text without its first token.
    NoBos,
    /// Another dtype for the whole model.
    DType(DType),
    /// Weights that are quantised.
    Weights(Mixture),
}

use Change::Model;
use Variation as V;

/// A yardstick that says what quantised weights do.
const fn quantised(name: &'static str, mixture: Mixture) -> Difference {
    let source = "llama-quantize, without an importance matrix; activations are not rounded";
    Difference { name, source, change: Change::Weights(mixture) }
}

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
        name: "embedding scale not rounded",
        source: "a port of RecurrentGemma, whose scale is bf16 whatever the model is",
        change: Model(&[V::EmbeddingScaleExact]),
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
        name: "norm: 1+w in place of w",
        source: "candle-transformers 0.11.1's Gemma 4 (candle#3448, #3967)",
        change: Model(&[V::NormWithOne]),
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
        source: "DeepMind's own JAX code in a bf16 model, Gemma 4's too (gm/nn/gemma4/_layers.py)",
        change: Model(&[V::NormRounding(NormRounding::EveryOp(DType::BF16))]),
    },
    Difference {
        name: "norm: squares in bf16",
        source: "sglang#27540, on Gemma 4",
        change: Model(&[V::NormRounding(NormRounding::Squares(DType::BF16))]),
    },
    Difference {
        name: "norm: pre-MLP weight behind attention",
        source: "Megatron-Bridge#4201, on Gemma 4",
        change: Model(&[V::MlpNormBehindAttention]),
    },
    Difference {
        name: "q/k norm left out",
        source: "Gemma 2's attention on Gemma 3's weights",
        change: Model(&[V::QkNormLeftOut]),
    },
    Difference {
        name: "v norm left out",
        source: "none known; easy to overlook",
        change: Model(&[V::ValueNormLeftOut]),
    },
    Difference {
        name: "v taken behind k norm",
        source: "Megatron-Bridge#4683, where Gemma 4's values are its keys",
        change: Model(&[V::ValuesAfterKeyNorm]),
    },
    Difference {
        name: "k/v sharing ignored",
        source: "candle-transformers 0.11.1's Gemma 4; mlx's Gemma 3n without a cache; tpu-inference#3406",
        change: Model(&[V::KeysNotShared]),
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
        name: "RoPE: scaling factor left out",
        source: "mlx-vlm#1709 and mlxcel#1340, on Gemma 3 from 4B on",
        change: Model(&[V::RopeFactorLeftOut]),
    },
    Difference {
        name: "RoPE: partial in place of proportional",
        source: "a port by what partial_rotary_factor means in other models",
        change: Model(&[V::PartialRope(PartialRope::Part)]),
    },
    Difference {
        name: "RoPE: proportional, pairs of first dims",
        source: "Megatron-Bridge#4195, #4196, #4916; coreai-models#66; pegainfer#820; nexusquant#12",
        change: Model(&[V::PartialRope(PartialRope::FirstNumbers)]),
    },
    Difference {
        name: "RoPE: proportional, exponents of the part",
        source: "Megatron-Bridge#4195, #4196, #4916; coreai-models#66; pegainfer#820; nexusquant#12",
        change: Model(&[V::PartialRope(PartialRope::ExponentsOverPart)]),
    },
    Difference {
        name: "RoPE: proportional, whole head turned",
        source: "a port that reads no partial_rotary_factor",
        change: Model(&[V::PartialRope(PartialRope::WholeHead)]),
    },
    Difference {
        name: "sliding window ignored",
        source: "a port with full attention in every layer",
        change: Model(&[V::WindowIgnored]),
    },
    Difference {
        name: "encoder: window as far to both sides",
        source: "T5Gemma 2's encoder with Gemma 3's window, half of it to each side",
        change: Model(&[V::WindowSymmetric]),
    },
    Difference {
        name: "cross attention: keys rotated",
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
        source: "candle-transformers 0.11's Gemma 2, 3 (27B) and 4; the review of mlc-llm#3485",
        change: Model(&[V::ScaledByHeadDim]),
    },
    Difference {
        name: "attention: softmax in bf16",
        source: "DeepMind's own JAX code of Gemma 4 (gm/nn/gemma4/_modules.py)",
        change: Model(&[V::SoftmaxRounded(DType::BF16)]),
    },
    Difference {
        name: "soft-caps left out",
        source: "attention kernels without soft-capping, on Gemma 2; DeepMind's Gemma 3n",
        change: Model(&[V::SoftcapsLeftOut]),
    },
    Difference {
        name: "layer_scalar left out",
        source: "candle-transformers 0.11.1's Gemma 4; emmy#371; quant.cpp#96",
        change: Model(&[V::LayerScalarLeftOut]),
    },
    Difference {
        name: "per-layer inputs left out",
        source: "candle-transformers 0.11.1's Gemma 4; said of llama.cpp (#22243)",
        change: Model(&[V::PerLayerInputsLeftOut]),
    },
    Difference {
        name: "per-layer inputs: rows not scaled",
        source: "a scale inside of transformers' embedding (transformers#45207)",
        change: Model(&[V::PerLayerRowsNotScaled]),
    },
    Difference {
        name: "per-layer inputs: sum not scaled",
        source: "a factor that nothing names (transformers#45207)",
        change: Model(&[V::PerLayerSumNotScaled]),
    },
    Difference {
        name: "per-layer inputs: in every stream",
        source: "none known; easy to overlook",
        change: Model(&[V::PerLayerInputsInEveryStream]),
    },
    Difference {
        name: "experts: router gets the normed input",
        source: "DeepMind's gemma 4.0.1; Automodel#1852; tunix 0.1.7",
        change: Model(&[V::RouterNormed]),
    },
    Difference {
        name: "experts: norms behind exchanged",
        source: "two norms whose names differ in a digit",
        change: Model(&[V::ExpertNormsExchanged]),
    },
    Difference {
        name: "experts: per_expert_scale left out",
        source: "none known; easy to overlook",
        change: Model(&[V::ExpertScaleLeftOut]),
    },
    Difference {
        name: "experts: weights not renormalised",
        source: "none known; easy to overlook",
        change: Model(&[V::ExpertsNotRenormalised]),
    },
    Difference {
        name: "sparsity left out",
        source: "any port as a plain gated block",
        change: Model(&[V::SparsityLeftOut]),
    },
    Difference {
        name: "sparsity: deviation by n-1",
        source: "llama.cpp's Gemma 3n; PyTorch's default",
        change: Model(&[V::SparsityBySample]),
    },
    Difference {
        name: "sparsity: first ten layers",
        source: "llama.cpp's Gemma 3n, which reads no activation_sparsity_pattern",
        change: Model(&[V::SparsityOfReleases]),
    },
    Difference {
        name: "AltUp: coefficients clipped",
        source: "DeepMind's, mlx's and mistral.rs's Gemma 3n, as in training",
        change: Model(&[V::AltUpClipped]),
    },
    Difference {
        name: "AltUp: coefficients transposed",
        source: "none known; easy to overlook",
        change: Model(&[V::AltUpTransposed]),
    },
    Difference {
        name: "AltUp: in f32",
        source: "DeepMind's and mlx's Gemma 3n in a bf16 model",
        change: Model(&[V::AltUpWide]),
    },
    Difference {
        name: "Laurel from the stream, not its norm",
        source: "none known; easy to overlook",
        change: Model(&[V::LaurelNotNormed]),
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
    quantised("yardstick: weights in Q8_0", Mixture::Q8_0),
    quantised("yardstick: weights in Q6_K", Mixture::Q6K),
    quantised("yardstick: weights in Q5_K_M", Mixture::Q5KM),
    quantised("yardstick: weights in Q4_K_M", Mixture::Q4KM),
    quantised("yardstick: weights in Q4_0", Mixture::Q4_0),
];
