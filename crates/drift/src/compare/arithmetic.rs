//! Whose arithmetic a dump was computed with. What a framework rounds on its way belongs to the noise floor, and not to
//! the mistakes.

use crate::drift;
use crate::error::{Error, Result};
use candle_core::DType;
use gemma_mlp::checkpoint::{Remark, Storage};
use gemma_mlp::linear::InputRounding;
use gemma_mlp::model::{AttentionRounding, NormRounding, RopeRounding, Variation};
use gemma_mlp::{Checkpoint, Framework, Gemma, Rounding};
use std::collections::BTreeMap;

/// Types in blocks of 32, by which llama.cpp calls a file that has most of its weights in one of them.
const OF_32: [&str; 6] = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL"];

/// A framework's arithmetic, as changes of our model.
pub(super) struct Arithmetic {
    /// What the model beside ours computes in.
    pub(super) dtype: DType,
    /// What it does otherwise than ours.
    pub(super) variations: Vec<Variation>,
    /// Those of them that are the same at every position, and so no noise: a model in f32 that has them is what theirs
    /// is scattered around.
    pub(super) centre: Vec<Variation>,
    /// Differences that it has of its own: none of them is a mistake.
    own: Vec<Variation>,
    /// Of the gated activation.
    rounding: Rounding,
    /// Whether inputs of products are rounded by the types that our checkpoint stores weights in.
    inputs_as_stored: bool,
    /// Whether ours computes with it too.
    pub(super) in_ours: bool,
    /// In a few words.
    pub(super) description: String,
}

impl Arithmetic {
    /// Of what a dump says of itself, beside a checkpoint; if ours is to be `like_theirs`, in both.
    ///
    /// # Errors
    /// Ours like a dump that is none of llama.cpp in f32: what a half type rounds depends on the last bits of everything
    /// before.
    pub(super) fn of(
        metadata: &BTreeMap<String, String>,
        dtype: DType,
        checkpoint: &Checkpoint,
        like_theirs: bool,
    ) -> Result<Self> {
        let say = |key: &str| metadata.get(key).map(String::as_str);
        // Scores stay f32 in kernels that fuse attention.
        let fused = matches!(say("attention"), Some("sdpa" | "flash" | "flash_attention_2"));
        let half = dtype.size_in_bytes() == 2;
        Ok(match say("framework") {
            Some("llama.cpp") if dtype == DType::F32 || !like_theirs => {
                let mut entries = checkpoint.tensors().entries();
                let quantised = entries.any(|(.., storage)| matches!(storage, Storage::Blocks(_)));
                Self::llama_cpp(say("weights").unwrap_or_default(), quantised, dtype, like_theirs)
            }
            other if like_theirs => {
                let (framework, dtype) = (other.map(str::to_owned), dtype.as_str());
                return Err(Error::NotReproduced { framework, dtype });
            }
            _ if !half => Self::wide(Rounding::Once, "our model in f32 beside it in f64"),
            Some("transformers" | "torch") => {
                let like = Rounding::Like(Framework::PyTorch);
                Self::every_op("transformers", dtype, !fused, like)
            }
            Some("jax") => Self::jax(dtype),
            Some("keras") => Self::every_op("Keras", dtype, true, Rounding::Like(Framework::Jax)),
            Some("candle") => Self::candle(dtype),
            _ => Self::every_op("most frameworks", dtype, true, Rounding::AfterActivation),
        })
    }

    /// Of a model in f32, whose rounding is the distance of ours from the same in f64.
    fn wide(rounding: Rounding, description: &str) -> Self {
        Self {
            dtype: DType::F64,
            variations: vec![
                Variation::RopeRounding(RopeRounding::Wide),
                Variation::ChoiceRounding(DType::F32),
            ],
            centre: vec![],
            own: vec![],
            rounding,
            inputs_as_stored: false,
            in_ours: false,
            description: description.into(),
        }
    }

    /// Every operation rounded, but for norms and softmax, which are f32 inside.
    ///
    /// transformers 5.24 and keras-hub 0.32: the embedding's scale, RoPE's tables, products and sums, scores, the
    /// softmax's weights.
    fn every_op(name: &str, dtype: DType, scores: bool, rounding: Rounding) -> Self {
        let tables = Variation::RopeRounding(RopeRounding::Tables(dtype));
        let attention = AttentionRounding { dtype, rotary_every_op: true, scores };
        // A softmax in f32 of scores that are rounded, which is rounded again.
        let softmax = scores.then_some(Variation::SoftmaxRounded(dtype));
        Self {
            dtype,
            variations: vec![
                tables,
                Variation::AttentionRounding(attention),
                Variation::ChoiceRounding(dtype),
            ],
            centre: vec![Variation::EmbeddingScaleRounded(dtype), tables],
            own: in_dtype(dtype).into_iter().chain([tables]).chain(softmax).collect(),
            rounding,
            inputs_as_stored: false,
            in_ours: false,
            description: described(name, dtype),
        }
    }

    /// DeepMind's `gemma` 3.3 and 4.0: norms and softmax are of the dtype in every operation, the rotary embedding rounds
    /// once; Gemma 3n's AltUp is f32.
    fn jax(dtype: DType) -> Self {
        let attention = AttentionRounding { dtype, rotary_every_op: false, scores: true };
        Self {
            dtype,
            variations: vec![
                Variation::AttentionRounding(attention),
                Variation::NormRounding(NormRounding::EveryOp(dtype)),
                Variation::AltUpWide,
            ],
            centre: vec![Variation::EmbeddingScaleRounded(dtype)],
            own: [
                &in_dtype(dtype)[..],
                &norms(dtype)[..],
                &[Variation::SoftmaxRounded(dtype), Variation::AltUpWide],
            ]
            .concat(),
            rounding: Rounding::Like(Framework::Jax),
            inputs_as_stored: false,
            in_ours: false,
            description: described("JAX", dtype),
        }
    }

    /// candle-transformers 0.11: norms round before the weight, and the weight. Its rotary embedding, whose positions
    /// and angles are rounded too, is a mistake, and not its arithmetic.
    fn candle(dtype: DType) -> Self {
        let every_op = Self::every_op("candle", dtype, true, Rounding::EveryOp);
        let rounded = [
            Variation::NormWeightRounded(dtype),
            Variation::NormRounding(NormRounding::BeforeWeight(dtype)),
        ];
        Self {
            variations: [every_op.variations, rounded.to_vec()].concat(),
            own: [every_op.own, rounded.to_vec()].concat(),
            ..every_op
        }
    }

    /// llama.cpp on a CPU: f32 throughout, but for GELU's table of f16 and the inputs of matrix products, which are
    /// rounded by the weights' type: that of our checkpoint's, if they are `quantised` too, or what theirs are called.
    fn llama_cpp(weights: &str, quantised: bool, dtype: DType, in_ours: bool) -> Self {
        let has = |name: &&str| weights.contains(name);
        let (inputs, words) = match () {
            () if has(&"F32") => (Some(InputRounding::Exact), ""),
            () if has(&"BF16") => {
                (Some(InputRounding::To(DType::BF16)), " and inputs of products in bf16")
            }
            () if has(&"F16") => {
                (Some(InputRounding::To(DType::F16)), " and inputs of products in f16")
            }
            () if quantised => (None, " and inputs of products in 8 bits"),
            () if OF_32.iter().any(has) => {
                (Some(InputRounding::Q8_0), " and inputs of products in 8 bits")
            }
            () => (Some(InputRounding::Q8), " and inputs of products in 8 bits"),
        };
        // What is rounded before a product is far more than what f32 rounds behind it, unless ours has it too.
        let wide = in_ours || inputs == Some(InputRounding::Exact);
        let (models, both) = match (wide, in_ours) {
            (true, true) => ("f32 beside it in f64", " both"),
            (true, false) => ("f32 beside it in f64", ""),
            (false, _) => (dtype.as_str(), ""),
        };
        Self {
            dtype: if wide { DType::F64 } else { dtype },
            variations: [Variation::RopeRounding(RopeRounding::Iterated)]
                .into_iter()
                .chain(inputs.map(Variation::InputRounding))
                .chain(wide.then_some(Variation::ChoiceRounding(DType::F32)))
                .collect(),
            centre: vec![],
            own: vec![],
            rounding: Rounding::Like(Framework::LlamaCpp),
            inputs_as_stored: inputs.is_none(),
            in_ours,
            description: format!(
                "our model in {models},{both} with llama.cpp's table of GELU in f16{words}"
            ),
        }
    }

    /// A model that computes so, and what there is to say of it.
    pub(super) fn applied(
        &self,
        gemma: &Gemma,
        checkpoint: &Checkpoint,
    ) -> Result<(Gemma, Vec<Remark>)> {
        let varied = drift::varied(gemma, &self.variations)?.unwrap_or_else(|| gemma.clone());
        let varied = varied.with_rounding(self.rounding);
        match self.inputs_as_stored {
            true => Ok(varied.with_inputs_as_stored(checkpoint)?),
            false => Ok((varied, vec![])),
        }
    }

    /// Whether a difference is the framework's own.
    pub(super) fn has(&self, variations: &[Variation]) -> bool {
        variations.iter().all(|variation| self.own.contains(variation))
    }
}

/// What a model in a dtype rounds whoever computes it.
fn in_dtype(dtype: DType) -> [Variation; 2] {
    [Variation::EmbeddingScaleRounded(dtype), Variation::NormRounding(NormRounding::Output(dtype))]
}

/// What norms have that round every operation.
fn norms(dtype: DType) -> [Variation; 4] {
    [
        Variation::NormRounding(NormRounding::Squares(dtype)),
        Variation::NormWeightRounded(dtype),
        Variation::NormRounding(NormRounding::BeforeWeight(dtype)),
        Variation::NormRounding(NormRounding::EveryOp(dtype)),
    ]
}

fn described(name: &str, dtype: DType) -> String {
    format!("our model in {}, rounded as {name} does", dtype.as_str())
}
