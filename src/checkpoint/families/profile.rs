//! What one family's checkpoints may have that another's have not.

use crate::checkpoint::notes::Notes;

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
    /// `final_logit_softcapping`.
    pub final_softcap: Softcap,
    /// Attention, or the sentence why it is not computed here.
    pub attention: Result<AttentionProfile, &'static str>,
    /// The models that were released, by whose values a config is judged. (The models' configs on the Hub.)
    pub releases: &'static [Release],
}

impl Profile {
    /// Whether it reads nothing of a key that other families have.
    pub fn ignores(&self, key: &str) -> bool {
        let Ok(attention) = &self.attention else { return false };
        let sliding = attention.sliding.as_ref();
        match key {
            "final_logit_softcapping" => self.final_softcap == Softcap::Unread,
            "attn_logit_softcapping" => attention.softcap == Softcap::Unread,
            "query_pre_attn_scalar" => attention.query_pre_attn_scalar.is_none(),
            "sliding_window" => sliding.is_none(),
            "sliding_window_pattern" => sliding.is_none_or(|sliding| !sliding.reads_pattern),
            "rope_local_base_freq" => sliding.and_then(|sliding| sliding.rope_theta).is_none(),
            _ => false,
        }
    }
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
}

impl Release {
    /// A decoder that scales scores by its heads' width and stretches no positions.
    pub const fn new(
        name: &'static str,
        [hidden_size, intermediate_size, num_hidden_layers]: [usize; 3],
        [num_attention_heads, num_key_value_heads, head_dim]: [usize; 3],
        window: Option<usize>,
    ) -> Self {
        let (scalar, rope_factor, causal) = (head_dim as f64, 1.0, true);
        Self {
            name,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            scalar,
            window,
            rope_factor,
            causal,
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
    /// Why the whole model does not run here, if that is so of this kind alone.
    pub incomplete: Option<&'static str>,
}

impl Model {
    /// A model of text alone.
    pub const fn text(model_type: &'static str) -> Self {
        Self { model_type, text_type: model_type, incomplete: None }
    }

    /// A model around a text model.
    pub const fn around(text_type: &'static str, model_type: &'static str) -> Self {
        Self { model_type, text_type, incomplete: None }
    }
}

/// PaliGemma, around either of its text models.
pub const fn paligemma(text_type: &'static str) -> Model {
    let incomplete = Some("PaliGemma's text attends to an image, which is not read");
    Model { incomplete, ..Model::around(text_type, "paligemma") }
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
}

/// The block as most families have it.
pub const PLAIN_MLP: MlpProfile =
    MlpProfile { name: "mlp", bias: false, counts_gate_and_up: false };

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
}

/// The four norms that Gemma has had since its second version.
pub const FOUR_NORMS: NormNames = NormNames {
    input: "input_layernorm",
    post_attention: Some("post_attention_layernorm"),
    pre_mlp: "pre_feedforward_layernorm",
    post_mlp: Some("post_feedforward_layernorm"),
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
}

impl Softcap {
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
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    /// Scores are scaled by this number's `^-1/2`; `None` for `head_dim`, whatever a config says.
    pub query_pre_attn_scalar: Option<f64>,
    /// `attn_logit_softcapping`.
    pub softcap: Softcap,
    /// Whether queries and keys are normed.
    pub qk_norm: bool,
    /// Whether a config may ask for attention to both sides.
    pub bidirectional: bool,
    /// The layers that see a window only; `None` if there are none.
    pub sliding: Option<Sliding>,
    /// The base of the rotary frequencies.
    pub rope_theta: f64,
}

/// Layers with a sliding window.
pub struct Sliding {
    /// How many positions a query sees.
    pub window: usize,
    /// Of this many layers the last one sees everything.
    pub full_every: usize,
    /// Whether a config's `sliding_window_pattern` says another number.
    pub reads_pattern: bool,
    /// The base of these layers' rotary frequencies, where they have one of their own.
    pub rope_theta: Option<f64>,
}

/// Gemma 2's attention, which later families started from.
pub const GEMMA2_ATTENTION: AttentionProfile = AttentionProfile {
    num_attention_heads: 8,
    num_key_value_heads: 4,
    head_dim: 256,
    query_pre_attn_scalar: Some(256.0),
    softcap: Softcap::Default(50.0),
    qk_norm: false,
    bidirectional: false,
    sliding: Some(Sliding { window: 4096, full_every: 2, reads_pattern: false, rope_theta: None }),
    rope_theta: 10_000.0,
};
