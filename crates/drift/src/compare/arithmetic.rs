//! Whose arithmetic a dump was computed with. What a framework rounds on its way belongs to the noise floor, and not to
//! the mistakes.

use candle_core::DType;
use gemma_mlp::linear::InputRounding;
use gemma_mlp::model::{AttentionRounding, NormRounding, RopeRounding, Variation};
use gemma_mlp::{Framework, Rounding};
use std::collections::BTreeMap;

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
    pub(super) rounding: Rounding,
    /// In a few words.
    pub(super) description: String,
}

impl Arithmetic {
    /// Of what a dump says of itself.
    pub(super) fn of(metadata: &BTreeMap<String, String>, dtype: DType) -> Self {
        let say = |key: &str| metadata.get(key).map(String::as_str);
        // Scores stay f32 in kernels that fuse attention.
        let fused = matches!(say("attention"), Some("sdpa" | "flash" | "flash_attention_2"));
        let half = dtype.size_in_bytes() == 2;
        match say("framework") {
            Some("llama.cpp") => Self::llama_cpp(say("weights"), dtype),
            _ if !half => Self::wide(Rounding::Once, "our model in f32 beside it in f64"),
            Some("transformers" | "torch") => {
                let like = Rounding::Like(Framework::PyTorch);
                Self::every_op("transformers", dtype, !fused, like)
            }
            Some("jax") => Self::jax(dtype),
            Some("keras") => Self::every_op("Keras", dtype, true, Rounding::Like(Framework::Jax)),
            Some("candle") => Self::candle(dtype),
            _ => Self::every_op("most frameworks", dtype, true, Rounding::AfterActivation),
        }
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
    /// rounded by the weights' type.
    fn llama_cpp(weights: Option<&str>, dtype: DType) -> Self {
        let has = |name: &str| weights.is_some_and(|weights| weights.contains(name));
        let table = Rounding::Like(Framework::LlamaCpp);
        if has("F32") {
            let description =
                "our model in f32 beside it in f64, with llama.cpp's table of GELU in f16";
            let variations = vec![Variation::RopeRounding(RopeRounding::Iterated)];
            return Self { variations, ..Self::wide(table, description) };
        }
        let (inputs, words) = match () {
            () if has("BF16") => {
                (InputRounding::To(DType::BF16), " and inputs of products in bf16")
            }
            () if has("F16") => (InputRounding::To(DType::F16), " and inputs of products in f16"),
            () => (InputRounding::Q8, " and inputs of products in 8 bits"),
        };
        Self {
            dtype,
            variations: vec![
                Variation::RopeRounding(RopeRounding::Iterated),
                Variation::InputRounding(inputs),
            ],
            centre: vec![],
            own: vec![],
            rounding: table,
            description: format!(
                "our model in {}, with llama.cpp's table of GELU in f16{words}",
                dtype.as_str()
            ),
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
