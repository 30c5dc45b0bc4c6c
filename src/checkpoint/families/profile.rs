//! What one family's checkpoints may have that another's have not.

use crate::checkpoint::notes::Notes;
use serde::Serialize;

/// Everything that this crate knows of a family.
pub struct Profile {
    /// As reports have it: `Gemma 3`.
    pub name: &'static str,
    /// The models whose text part it is.
    pub models: &'static [Model],
    /// The names of its stacks of layers in config and weights; one without a name for most.
    pub stacks: &'static [&'static str],
    /// Which field of a config names the activation.
    pub activation: ActivationRule,
    /// Sizes where a config leaves them out, which older files do.
    pub sizes: Sizes,
    /// The gated block.
    pub mlp: MlpProfile,
    /// The norms of a layer.
    pub norms: NormNames,
    /// What norms multiply by.
    pub norm_weight: NormWeight,
    /// Inputs of every layer beside the residual stream, from tables or projections of their own.
    pub per_layer_inputs: Option<PerLayerProfile>,
    /// Whether a layer ends with a factor of its own on the residual stream, `layer_scalar`.
    pub layer_scalar: bool,
    /// Under what prefix these are, where that is not the layers' own: what it ends with there, and what it has in place
    /// of that.
    pub scalars: Option<(&'static str, &'static str)>,
    /// What of the model is not computed here though its logits are.
    pub left_out: Option<LeftOut>,
    /// Several residual streams, and the low-rank path beside attention.
    pub altup: Option<AltUpProfile>,
    /// What a family of an encoder and a decoder has that others have not.
    pub encoder_decoder: Option<EncoderDecoderProfile>,
    /// What embeddings of texts are made of, in models that have no head.
    pub embedding_dim: Option<usize>,
    /// What the factor on token embeddings, `sqrt(hidden)`, is rounded to.
    pub embedding_scale: EmbeddingScale,
    /// `final_logit_softcapping`, or what the family calls it.
    pub final_softcap: Softcap,
    /// Attention, or the sentence why it is not computed here.
    pub attention: Result<AttentionProfile, &'static str>,
    /// The models that were released, by whose values a config is judged. (The models' configs on the Hub.)
    pub releases: &'static [Release],
}

/// A decoder with nothing around its layers, whose norms multiply by `1 + w`, and which reads no soft-cap: where families
/// start from.
pub const fn decoder(name: &'static str, models: &'static [Model], sizes: Sizes) -> Profile {
    Profile {
        name,
        models,
        stacks: &[""],
        activation: ActivationRule::HiddenActivation,
        sizes,
        mlp: PLAIN_MLP,
        norms: FOUR_NORMS,
        norm_weight: NormWeight::OnePlus,
        per_layer_inputs: None,
        scalars: None,
        left_out: None,
        layer_scalar: false,
        altup: None,
        encoder_decoder: None,
        embedding_dim: None,
        embedding_scale: EmbeddingScale::RunDType,
        final_softcap: Softcap::Unread,
        attention: Ok(GEMMA2_ATTENTION),
        releases: &[],
    }
}

impl Profile {
    /// Whether it reads nothing of a key that other families have.
    pub fn ignores(&self, key: &str) -> bool {
        let Ok(attention) = &self.attention else { return false };
        let sliding = attention.sliding.as_ref();
        match key {
            "final_logit_softcapping" => {
                self.final_softcap == Softcap::Unread || self.final_softcap.key() != key
            }
            "attn_logit_softcapping" => attention.softcap == Softcap::Unread,
            "query_pre_attn_scalar" => !matches!(attention.scaling, Scaling::Scalar(_)),
            "sliding_window" => sliding.is_none(),
            "attention_window_size" => attention.window_key != key,
            "logits_soft_cap" => self.final_softcap.key() != key,
            "block_types" | "lru_width" | "conv1d_width" => attention.recurrent.is_none(),
            "layer_types" => attention.recurrent.is_some(),
            "sliding_window_pattern" => sliding.is_none_or(|sliding| !sliding.reads_pattern),
            "rope_local_base_freq" => sliding.and_then(|sliding| sliding.rope_theta).is_none(),
            "global_head_dim" | "num_global_key_value_heads" => attention.global.is_none(),
            "attention_k_eq_v" => {
                attention.global.as_ref().is_none_or(|own| own.keys_are_values != When::Asked)
            }
            "num_kv_shared_layers" => attention.shared_layers.is_none(),
            "enable_moe_block" => self.mlp.experts != When::Asked,
            "num_experts" | "top_k_experts" | "moe_intermediate_size" => {
                self.mlp.experts == When::Never
            }
            "use_double_wide_mlp" => !self.mlp.double_wide,
            "activation_sparsity_pattern" => !self.mlp.sparsity,
            "hidden_size_per_layer_input" => self.per_layer_inputs.is_none(),
            "vocab_size_per_layer_input" => {
                self.per_layer_inputs.as_ref().is_none_or(|own| own.vocab_size.is_none())
            }
            "altup_num_inputs"
            | "altup_active_idx"
            | "altup_coef_clip"
            | "altup_correct_scale"
            | "laurel_rank" => self.altup.is_none(),
            "embedding_dim" => self.embedding_dim.is_none(),
            _ => false,
        }
    }
}

/// A part of a model that is not computed.
pub struct LeftOut {
    /// Which it is.
    pub sentence: &'static str,
    /// What the names of its tensors contain.
    pub parts: &'static [&'static str],
}

/// What a released model has, where not all of its family have it.
pub struct Release {
    /// As people call it: `Gemma 3 270M`.
    pub name: &'static str,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    /// `query_pre_attn_scalar`, where the family reads it.
    pub scalar: f64,
    /// `sliding_window`, where the family has one.
    pub window: Option<usize>,
    /// By what positions of full attention are divided.
    pub rope_factor: f64,
    /// Whether it sees earlier positions only.
    pub causal: bool,
    /// Every how many layers one has full attention, where that is not the family's default.
    pub full_every: Option<usize>,
    /// Key-value heads of layers with full attention and the width of all their heads, where those are others.
    pub global: Option<[usize; 2]>,
    /// Whether keys are values in these.
    pub keys_are_values: bool,
    /// How many of its layers share keys and values.
    pub shared_layers: usize,
    /// Whether these are twice as wide.
    pub double_wide: bool,
    /// Of how many layers, from the first, the gate is sparse.
    pub sparse_layers: usize,
    /// How many experts it has, how many of them a token gets, and their width.
    pub experts: Option<[usize; 3]>,
    /// `hidden_size_per_layer_input`; 0 where it has none.
    pub per_layer_input: usize,
    /// `final_logit_softcapping`, where the family has no default.
    pub final_softcap: Option<f64>,
}

impl Release {
    /// A decoder that scales scores by its heads' width and stretches no positions, all of whose layers are alike.
    pub const fn new(
        name: &'static str,
        [hidden_size, intermediate_size, num_hidden_layers]: [usize; 3],
        [num_attention_heads, num_key_value_heads, head_dim]: [usize; 3],
        window: Option<usize>,
    ) -> Self {
        Self {
            name,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            scalar: head_dim as f64,
            window,
            rope_factor: 1.0,
            causal: true,
            full_every: None,
            global: None,
            keys_are_values: false,
            shared_layers: 0,
            double_wide: false,
            sparse_layers: 0,
            experts: None,
            per_layer_input: 0,
            final_softcap: None,
        }
    }

    pub const fn scalar(self, scalar: f64) -> Self {
        Self { scalar, ..self }
    }

    pub const fn rope_factor(self, rope_factor: f64) -> Self {
        Self { rope_factor, ..self }
    }

    pub const fn bidirectional(self) -> Self {
        Self { causal: false, ..self }
    }
}

/// A kind of file, by `model_type`.
pub struct Model {
    /// `model_type` of the file.
    pub model_type: &'static str,
    /// `model_type` of its text part, which is the file's own where there is no other part.
    pub text_type: &'static str,
    /// Whether a prompt's tokens all see one another, and positions count from 1.
    pub prefix: bool,
}

impl Model {
    /// A model of text alone.
    pub const fn text(model_type: &'static str) -> Self {
        Self { model_type, text_type: model_type, prefix: false }
    }

    /// A model around a text model.
    pub const fn around(text_type: &'static str, model_type: &'static str) -> Self {
        Self { model_type, text_type, prefix: false }
    }
}

/// PaliGemma, around either of its text models.
pub const fn paligemma(text_type: &'static str) -> Model {
    Model { prefix: true, ..Model::around(text_type, "paligemma") }
}

/// How a config names the activation. All of Gemma was trained with tanh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivationRule {
    /// `hidden_activation` alone, under transformers' names.
    HiddenActivation,
    /// `hidden_act` too, whose `"gelu"` means tanh: Gemma 1's files say so by mistake.
    LegacyHiddenAct,
}

/// transformers' defaults.
pub struct Sizes {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub vocab_size: usize,
}

/// The gated block of a layer.
pub struct MlpProfile {
    /// What a layer calls it.
    pub name: &'static str,
    /// Whether its projections have biases.
    pub bias: bool,
    /// Whether `intermediate_size` counts gate and up together.
    pub counts_gate_and_up: bool,
    /// Whether a config may list a size for each layer, and zero most of the gate's values.
    pub sparsity: bool,
    /// Whether layers that share keys and values may be twice as wide (`use_double_wide_mlp`).
    pub double_wide: bool,
    /// When there are experts beside the block (`enable_moe_block`).
    pub experts: When,
}

/// The block as most families have it.
pub const PLAIN_MLP: MlpProfile = MlpProfile {
    name: "mlp",
    bias: false,
    counts_gate_and_up: false,
    sparsity: false,
    double_wide: false,
    experts: When::Never,
};

/// What the factor on token embeddings, `sqrt(hidden)`, is rounded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmbeddingScale {
    /// The dtype that the model runs in.
    RunDType,
    /// bf16, whatever the model runs in (transformers' `RecurrentGemmaModel` keeps it in a buffer).
    Bf16,
}

/// What a norm multiplies by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormWeight {
    /// `1 + w`: the weight is stored as its distance from 1.
    OnePlus,
    /// `w`, as it is stored.
    Plain,
}

/// Inputs of every layer beside the residual stream.
pub struct PerLayerProfile {
    /// `hidden_size_per_layer_input`; 0 is none.
    pub size: usize,
    /// Rows of the table that they are looked up in; `None` for projections of the embeddings alone.
    pub vocab_size: Option<usize>,
    /// Whether ids beyond the table have row 0, and factors are rounded to the model's dtype: Gemma 3n.
    pub guarded: bool,
    /// What the tensors are called.
    pub names: PerLayerNames,
}

/// What the tensors of per-layer inputs are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerLayerNames {
    /// Before `per_layer_model_projection` and `per_layer_projection_norm`.
    pub model: &'static str,
    /// Within a layer, before `per_layer_input_gate`, `per_layer_projection` and `post_per_layer_input_norm`.
    pub layer: &'static str,
}

/// As Gemma 3n and Gemma 4 call them.
pub const PER_LAYER_NAMES: PerLayerNames = PerLayerNames { model: "", layer: "" };

/// Gemma 3n's AltUp and Laurel, with transformers' defaults.
pub struct AltUpProfile {
    pub inputs: usize,
    pub active: usize,
    pub coef_clip: f64,
    pub correct_scale: bool,
    pub laurel_rank: usize,
}

/// What a family of an encoder and a decoder has that others have not. The rest of its profile is the decoder's.
pub struct EncoderDecoderProfile {
    /// The encoder's attention.
    pub encoder: AttentionProfile,
    /// How the decoder attends to the encoder's states.
    pub cross: Cross,
    /// Whether both stacks look tokens up in one table, the encoder's.
    pub one_embedding: bool,
    /// `eoi_token_index`, the id with an embedding of its own, which ends an image.
    pub end_of_image: Option<u32>,
    /// What the head is called.
    pub head: &'static str,
}

/// How a decoder attends to an encoder's states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cross {
    /// In a sub-layer of its own between self attention and MLP, with projections and norms of its own (T5Gemma).
    SubLayer,
    /// In self attention, whose projections make keys and values of them that stand beside the decoder's own in one
    /// softmax (T5Gemma 2).
    Merged,
}

/// What a layer calls its norms, in the order of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NormNames {
    /// In front of attention.
    pub input: &'static str,
    /// Behind attention, where there is one.
    pub post_attention: Option<&'static str>,
    /// In front of the MLP.
    pub pre_mlp: &'static str,
    /// Behind the MLP, where there is one.
    pub post_mlp: Option<&'static str>,
    /// Behind the last layer.
    pub last: &'static str,
}

/// The four norms that Gemma has had since its second version.
pub const FOUR_NORMS: NormNames = NormNames {
    input: "input_layernorm",
    post_attention: Some("post_attention_layernorm"),
    pre_mlp: "pre_feedforward_layernorm",
    post_mlp: Some("post_feedforward_layernorm"),
    last: "norm",
};

/// As T5Gemma calls them.
pub const T5_NORMS: NormNames = NormNames {
    input: "pre_self_attn_layernorm",
    post_attention: Some("post_self_attn_layernorm"),
    ..FOUR_NORMS
};

/// `cap·tanh(x/cap)` and the config's field for the cap.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Softcap {
    /// transformers reads no such field.
    Unread,
    /// None, unless the field names one.
    Optional,
    /// This one where the field is absent; none where it is null.
    Default(f64),
    /// There is always one, this where the field is absent, which is called `logits_soft_cap`: RecurrentGemma's logits.
    Always(f64),
}

impl Softcap {
    /// What the field is called for logits.
    pub fn key(self) -> &'static str {
        match self {
            Self::Always(_) => "logits_soft_cap",
            _ => "final_logit_softcapping",
        }
    }

    /// The cap that a config means, or the sentence why it cannot be one. A field is absent, null, or a
    /// number.
    pub fn resolve(
        self,
        name: &str,
        field: Option<Option<f64>>,
        notes: &mut Notes,
    ) -> Result<Option<f64>, String> {
        let cap = match self {
            Self::Unread => None,
            Self::Optional => field.flatten(),
            Self::Default(cap) => notes.or_null(name, field, cap),
            Self::Always(cap) => {
                let cap = notes.or_null(name, field, cap);
                Some(cap.ok_or_else(|| format!("{name} is null; it must be a number"))?)
            }
        };
        match cap {
            Some(cap) if cap.is_nan() || cap <= 0.0 => {
                Err(format!("{name} is {cap}; it must be positive"))
            }
            cap => Ok(cap),
        }
    }
}

/// Attention, with transformers' defaults.
pub struct AttentionProfile {
    /// What a layer calls it.
    pub name: &'static str,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    /// Whether a config that leaves them out has as many key heads as heads, and heads that share the hidden size.
    pub heads_by_size: bool,
    /// Whether the output's projection has a bias, whatever the others have.
    pub output_bias: bool,
    /// The factor on the scores.
    pub scaling: Scaling,
    /// `attn_logit_softcapping`.
    pub softcap: Softcap,
    /// Whether queries and keys are normed.
    pub qk_norm: bool,
    /// Whether values are normed, without a weight.
    pub v_norm: bool,
    /// Whether positions may see what comes behind them.
    pub bidirectional: Bidirectional,
    /// Heads of their own in layers that see everything.
    pub global: Option<GlobalHeads>,
    /// `num_kv_shared_layers`, where the family reads it.
    pub shared_layers: Option<usize>,
    /// The layers that see a window only; `None` if there are none.
    pub sliding: Option<Sliding>,
    /// The field of a config that has the window.
    pub window_key: &'static str,
    /// The layers that have a recurrence in place of attention.
    pub recurrent: Option<RecurrentProfile>,
    /// The base of the rotary frequencies.
    pub rope_theta: f64,
    /// The part of a head that full layers rotate, where it is proportional RoPE unless a config says otherwise.
    pub proportional: Option<f64>,
    /// The part of a head's first numbers that are rotated unless a config says otherwise, where only a part may be.
    pub partial: Option<f64>,
}

/// Layers with a recurrence (RG-LRU) in place of attention, with transformers' defaults.
pub struct RecurrentProfile {
    /// `block_types`, from the first layer on and again.
    pub block_types: &'static [BlockType],
    /// `conv1d_width`.
    pub conv_width: usize,
}

/// By what a layer mixes tokens, as `block_types` calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockType {
    Recurrent,
    Attention,
}

/// The factor on attention's scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    /// `query_pre_attn_scalar^-1/2`, with this default.
    Scalar(f64),
    /// `head_dim^-1/2`, whatever a config says.
    HeadDim,
    /// None: the norm of the queries has it.
    One,
}

/// Attention to both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bidirectional {
    /// Never.
    No,
    /// Where a config says so, with half the window to each side, exclusive: EmbeddingGemma.
    HalfWindow,
    /// Where a config says "all", with half the window and one to each side, inclusive: Gemma 4.
    HalfWindowInclusive,
    /// Always, with the window to each side, inclusive: EmbeddingGemma 2, T5Gemma's encoder.
    Always,
    /// Always, with half the window to each side, of which an even one has one more behind than before: T5Gemma 2's
    /// encoder.
    AlwaysHalved,
}

impl Bidirectional {
    /// Whether a model predicts tokens though its positions see both sides: an encoder has no head.
    pub fn has_head(self) -> bool {
        self == Self::HalfWindowInclusive
    }
}

/// Heads of layers with full attention.
pub struct GlobalHeads {
    /// `global_head_dim`.
    pub head_dim: usize,
    /// `num_global_key_value_heads`; `None` for those of the other layers.
    pub num_key_value_heads: Option<usize>,
    /// Whether that counts without `attention_k_eq_v`.
    pub always: bool,
    /// Whether their values are what the keys' projection returns.
    pub keys_are_values: When,
}

/// When a family's models have something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Never,
    /// Where a config has the field that asks for it.
    Asked,
    Always,
}

impl When {
    /// Whether a model has it whose config asks for it, or not.
    pub fn holds(self, asked: Option<bool>) -> bool {
        match self {
            Self::Never => false,
            Self::Asked => asked == Some(true),
            Self::Always => true,
        }
    }
}

/// Layers with a sliding window.
pub struct Sliding {
    /// How many positions a query sees.
    pub window: usize,
    /// Of this many layers the last one sees everything; 0 where none does.
    pub full_every: usize,
    /// Whether a config's `sliding_window_pattern` says another number.
    pub reads_pattern: bool,
    /// Whether the last layer sees everything, whatever the pattern says.
    pub last_full: bool,
    /// The base of these layers' rotary frequencies, where they have one of their own.
    pub rope_theta: Option<f64>,
}

/// Gemma 2's attention, which later families started from.
pub const GEMMA2_ATTENTION: AttentionProfile = AttentionProfile {
    name: "self_attn",
    num_attention_heads: 8,
    num_key_value_heads: 4,
    head_dim: 256,
    heads_by_size: false,
    output_bias: false,
    scaling: Scaling::Scalar(256.0),
    softcap: Softcap::Default(50.0),
    qk_norm: false,
    v_norm: false,
    bidirectional: Bidirectional::No,
    global: None,
    shared_layers: None,
    sliding: Some(Sliding {
        window: 4096,
        full_every: 2,
        reads_pattern: false,
        last_full: false,
        rope_theta: None,
    }),
    window_key: "sliding_window",
    recurrent: None,
    rope_theta: 10_000.0,
    proportional: None,
    partial: None,
};
