//! The mistakes that people make when they port Gemma, as changes to a model that computes it
//! right. A row of the table below is all that a difference needs.

use crate::activation::Activation;
use crate::checkpoint::Config;
use crate::gelu::Gelu;
use crate::model::{Gemma, Layer, NormRounding, RopeRounding, rounded};
use candle_core::{DType, Result, Tensor};

/// A documented way to compute Gemma differently.
#[derive(Debug, Clone, Copy)]
pub struct Difference {
    /// What is different.
    pub name: &'static str,
    /// Where it comes from, or who does it.
    pub source: &'static str,
    pub(super) change: Change,
}

/// How a difference is brought about.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// Another model with the same weights; `None` where the family does not have what it changes.
    Model(fn(&Gemma, &Config) -> Result<Option<Gemma>>),
    /// A change of the sliding window by so many tokens; `None` takes it away.
    Window(Option<isize>),
    /// The text without its first token.
    NoBos,
    /// Another dtype for the whole model.
    DType(DType),
}

use Change::{Model, Window};

/// All of them.
pub static DIFFERENCES: [Difference; 24] = [
    Difference {
        name: "GELU: exact (erf)",
        source: "gemma_pytorch before issue 33; candle 0.11 on Gemma 1's config",
        change: Model(|gemma, _| activation(gemma, Activation::Gelu(Gelu::Exact))),
    },
    Difference {
        name: "GELU: tanh",
        source: "any model that was trained with the exact form",
        change: Model(|gemma, _| activation(gemma, Activation::Gelu(Gelu::Tanh))),
    },
    Difference {
        name: "GELU: SiLU in its place",
        source: "candle-transformers 0.11's quantized Gemma 3; Llama's block",
        change: Model(|gemma, _| activation(gemma, Activation::Silu)),
    },
    Difference {
        name: "GELU: x*sigmoid(1.702x)",
        source: "transformers' quick_gelu, as in CLIP",
        change: Model(|gemma, _| activation(gemma, Activation::QuickGelu)),
    },
    Difference {
        name: "embedding scale rounded to bf16",
        source: "transformers' own bf16 models, whose scale is a buffer in the weights' dtype",
        change: Model(|gemma, _| {
            let mut other = gemma.clone();
            other.embedding.scale = rounded(other.embedding.scale, DType::BF16);
            Ok((other.embedding.scale != gemma.embedding.scale).then_some(other))
        }),
    },
    Difference {
        name: "embedding not scaled",
        source: "Llama's embedding",
        change: Model(|gemma, _| {
            let mut other = gemma.clone();
            other.embedding.scale = 1.0;
            Ok(Some(other))
        }),
    },
    Difference {
        name: "norm: w in place of 1+w",
        source: "Llama's RMSNorm",
        change: Model(|gemma, _| gemma.map_norms(|norm| norm.map_weight(|w| w - 1.0)).map(Some)),
    },
    Difference {
        name: "norm: 1+w rounded to bf16",
        source: "a weight that is stored as 1+w, as GGUF files in bf16 do",
        change: Model(|gemma, _| {
            gemma.map_norms(|norm| norm.map_weight(one_plus_weight_in_bf16)).map(Some)
        }),
    },
    Difference {
        name: "norm: output rounded to bf16",
        source: "a norm in a bf16 model, alone",
        change: Model(|gemma, _| {
            let rounding = NormRounding::Output(DType::BF16);
            gemma.map_norms(|norm| Ok(norm.with_rounding(rounding))).map(Some)
        }),
    },
    Difference {
        name: "norm: Llama's order of rounding to bf16",
        source: "transformers pull request 29402, before it",
        change: Model(|gemma, _| {
            let rounding = NormRounding::BeforeWeight(DType::BF16);
            let norm = |norm: &crate::model::RmsNorm| {
                Ok(norm.map_weight(one_plus_weight_in_bf16)?.with_rounding(rounding))
            };
            gemma.map_norms(norm).map(Some)
        }),
    },
    Difference {
        name: "q/k norm left out",
        source: "Gemma 2's attention on Gemma 3's weights",
        change: Model(|gemma, _| {
            let has = gemma.layers().iter().any(|layer| layer.attention.qk_norm.is_some());
            Ok(has.then(|| gemma.map_layers(|layer| layer.attention.qk_norm = None)))
        }),
    },
    Difference {
        name: "RoPE: cosine and sine rounded to bf16",
        source: "transformers' own bf16 models",
        change: Model(|gemma, _| rope(gemma, RopeRounding::Tables(DType::BF16))),
    },
    Difference {
        name: "RoPE: inverse frequencies rounded to bf16",
        source: "a buffer that is cast along with the model",
        change: Model(|gemma, _| rope(gemma, RopeRounding::Frequencies(DType::BF16))),
    },
    Difference {
        name: "RoPE: all in bf16, positions too",
        source: "candle-transformers 0.11's Gemma 3 in bf16",
        change: Model(|gemma, _| rope(gemma, RopeRounding::Everything(DType::BF16))),
    },
    Difference {
        name: "RoPE: the global base in every layer",
        source: "a port that reads rope_theta alone",
        change: Model(|gemma, config| rope_of(gemma, config, false)),
    },
    Difference {
        name: "RoPE: the local base in every layer",
        source: "a port that overlooks rope_theta",
        change: Model(|gemma, config| rope_of(gemma, config, true)),
    },
    Difference {
        name: "sliding window ignored",
        source: "a port with full attention in every layer",
        change: Window(None),
    },
    Difference {
        name: "sliding window one shorter",
        source: "off by one",
        change: Window(Some(-1)),
    },
    Difference {
        name: "sliding window one longer",
        source: "candle-transformers 0.11's masks of Gemma 2 and 3",
        change: Window(Some(1)),
    },
    Difference {
        name: "attention scaled by head_dim",
        source: "candle-transformers 0.11's Gemma 2 and 3, which read no query_pre_attn_scalar (27B)",
        change: Model(|gemma, config| {
            let Ok(attention) = &config.stacks[0].attention else { return Ok(None) };
            let scaling = (attention.head_dim as f64).powf(-0.5);
            Ok((scaling != attention.scaling)
                .then(|| gemma.map_layers(|layer| *layer.attention.scaling_mut() = scaling)))
        }),
    },
    Difference {
        name: "soft-caps left out",
        source: "attention kernels without soft-capping, on Gemma 2",
        change: Model(|gemma, _| {
            let mut other = gemma.without_final_softcap();
            let mut had = gemma.head().is_some_and(|head| head.softcap().is_some());
            other.layers.iter_mut().for_each(|layer| {
                had |= layer.attention.softcap_mut().take().is_some();
            });
            Ok(had.then_some(other))
        }),
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

fn activation(gemma: &Gemma, activation: Activation) -> Result<Option<Gemma>> {
    let own = gemma.layers().first().map(|layer| layer.mlp().activation());
    Ok((own != Some(activation)).then(|| gemma.with_activation(activation)))
}

fn rope(gemma: &Gemma, rounding: RopeRounding) -> Result<Option<Gemma>> {
    Ok(Some(gemma.map_layers(|layer| {
        layer.attention.rope = layer.attention.rope.with_rounding(rounding);
    })))
}

/// The rotary embedding of the local or of the global layers in all of them.
fn rope_of(gemma: &Gemma, config: &Config, local: bool) -> Result<Option<Gemma>> {
    let is_local = |layer: &&Layer| layer.attention.sliding_window.is_some();
    let find = |local| gemma.layers().iter().find(|layer| is_local(layer) == local);
    let (Some(wanted), Some(other)) = (find(local), find(!local)) else { return Ok(None) };
    let Ok(attention) = &config.stacks[0].attention else { return Ok(None) };
    let both = |rope: &crate::model::RotaryEmbedding| attention.layers.iter().all(|l| rope.fits(l));
    if both(&wanted.attention.rope) || both(&other.attention.rope) {
        return Ok(None);
    }
    let rope = wanted.attention.rope.clone();
    Ok(Some(gemma.map_layers(|layer| layer.attention.rope = rope.clone())))
}

/// The weight whose `1 + w` is that of the given one, rounded to bf16.
fn one_plus_weight_in_bf16(weight: Tensor) -> Result<Tensor> {
    (&weight + 1.0)?.to_dtype(DType::BF16)?.to_dtype(weight.dtype())? - 1.0
}

/// The same model with other sliding windows, if it has any that is shorter than `longest` tokens.
pub(super) fn with_window(gemma: &Gemma, by: Option<isize>, longest: usize) -> Option<Gemma> {
    let reached = |layer: &Layer| layer.attention.sliding_window.is_some_and(|w| w < longest);
    gemma.layers().iter().any(reached).then(|| {
        gemma.map_layers(|layer| {
            let changed = |window: usize| by.and_then(|by| window.checked_add_signed(by));
            let window = layer.attention.sliding_window;
            layer.attention.sliding_window = window.and_then(changed).map(|w| w.max(1));
        })
    })
}
