//! The attention part of a config: what a layer does before its MLP.

use super::defaults::Defaults;
use super::families::{AttentionProfile, Family};
use super::limits::MAX_WIDTH;
use super::raw::{LayerType, RawConfig, RopeParameters, RopeScaling};

/// Attention as all layers of a stack have it.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionConfig {
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads, each shared by an equal number of query heads.
    pub num_key_value_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Whether the projections have biases.
    pub bias: bool,
    /// Whether queries and keys are normed per head (Gemma 3).
    pub qk_norm: bool,
    /// The factor on the scores: `query_pre_attn_scalar^-1/2`.
    pub scaling: f64,
    /// `cap·tanh(scores/cap)`, where the family has it (Gemma 2, VaultGemma).
    pub softcap: Option<f64>,
    /// Whether a position sees earlier ones only. EmbeddingGemma's see both sides.
    pub causal: bool,
    /// What differs from layer to layer.
    pub layers: Vec<LayerAttention>,
}

/// Attention of one layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerAttention {
    /// A query sees keys at a distance below this; `None` sees all.
    pub sliding_window: Option<usize>,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Positions are divided by this (`rope_type: "linear"`); 1 where nothing is scaled.
    pub rope_factor: f64,
}

impl AttentionConfig {
    /// Resolves the fields for a family, or says in a sentence what is not supported.
    pub(super) fn resolve(
        family: Family,
        profile: &AttentionProfile,
        raw: &RawConfig,
        layers: usize,
        defaults: &mut Defaults,
    ) -> Result<Self, String> {
        let (heads, kv_heads) = (profile.num_attention_heads, profile.num_key_value_heads);
        let heads = defaults.or("num_attention_heads", raw.num_attention_heads, heads);
        let kv_heads = defaults.or("num_key_value_heads", raw.num_key_value_heads, kv_heads);
        let head_dim = defaults.or("head_dim", raw.head_dim, profile.head_dim);
        if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(format!("{heads} attention heads cannot share {kv_heads} key-value heads"));
        }
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(format!("head_dim is {head_dim}; rotary embeddings need an even one"));
        }
        if heads.checked_mul(head_dim).is_none_or(|width| width > MAX_WIDTH) {
            return Err(format!(
                "{heads} attention heads of {head_dim} are wider than any Gemma; the limit is {MAX_WIDTH}"
            ));
        }
        let scalar = match profile.query_pre_attn_scalar {
            Some(default) => {
                defaults.or("query_pre_attn_scalar", raw.query_pre_attn_scalar, default)
            }
            None => head_dim as f64,
        };
        if scalar.is_nan() || scalar <= 0.0 {
            return Err(format!("query_pre_attn_scalar is {scalar}; it must be positive"));
        }
        let causal = !raw.use_bidirectional_attention.unwrap_or(false);
        if !causal && !profile.bidirectional {
            return Err(format!("bidirectional attention in {family} is not supported"));
        }
        Ok(Self {
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            bias: raw.attention_bias.unwrap_or(false),
            qk_norm: profile.qk_norm,
            scaling: scalar.powf(-0.5),
            softcap: profile.softcap.resolve(
                "attn_logit_softcapping",
                raw.attn_logit_softcapping,
                defaults,
            )?,
            causal,
            layers: layer_types(profile, raw, layers, defaults)?
                .into_iter()
                .map(|layer_type| layer(profile, raw, layer_type, causal, defaults))
                .collect::<Result<_, _>>()?,
        })
    }
}

/// The type of every layer: listed, or every n-th one full.
fn layer_types(
    profile: &AttentionProfile,
    raw: &RawConfig,
    layers: usize,
    defaults: &mut Defaults,
) -> Result<Vec<LayerType>, String> {
    let Some(sliding) = &profile.sliding else {
        return Ok(vec![LayerType::Full; layers]);
    };
    let Some(listed) = &raw.layer_types else {
        let pattern = match sliding.reads_pattern {
            true => {
                let listed = raw.sliding_window_pattern;
                defaults.or("sliding_window_pattern", listed, sliding.full_every)
            }
            false => sliding.full_every,
        };
        let full = |i: usize| (i + 1).checked_rem(pattern) == Some(0);
        return Ok((0..layers)
            .map(|i| if full(i) { LayerType::Full } else { LayerType::Sliding })
            .collect());
    };
    if listed.len() != layers {
        return Err(format!("layer_types lists {} layers of {layers}", listed.len()));
    }
    let parse = |name: &String| match name.as_str() {
        "sliding_attention" => Ok(LayerType::Sliding),
        "full_attention" => Ok(LayerType::Full),
        other => Err(format!("layer type \"{other}\" is not supported")),
    };
    listed.iter().map(parse).collect()
}

fn layer(
    profile: &AttentionProfile,
    raw: &RawConfig,
    layer_type: LayerType,
    causal: bool,
    defaults: &mut Defaults,
) -> Result<LayerAttention, String> {
    let sliding = profile.sliding.as_ref().filter(|_| layer_type == LayerType::Sliding);
    let sliding_window = match sliding {
        None => None,
        Some(sliding) => {
            let window = defaults.or("sliding_window", raw.sliding_window, sliding.window);
            if window == 0 {
                return Err("sliding_window is 0; a position must see at least itself".into());
            }
            // transformers' Gemma3TextConfig: half the window to each side, exclusive.
            Some(if causal { window } else { window / 2 + 1 })
        }
    };
    let own_theta = sliding.and_then(|sliding| sliding.rope_theta);
    let (rope_theta, rope_factor) = match own_theta {
        Some(theta) => {
            // The older spelling's scaling does not apply to layers with a base of their own.
            let older = (raw.rope_local_base_freq, None);
            rope(("rope_local_base_freq", theta), older, raw, layer_type, defaults)?
        }
        None => {
            let older = (raw.rope_theta, raw.rope_scaling.clone());
            rope(("rope_theta", profile.rope_theta), older, raw, layer_type, defaults)?
        }
    };
    Ok(LayerAttention { sliding_window, rope_theta, rope_factor })
}

/// Base and factor of the rotary embedding of a layer type: the older spelling's base by its name and
/// default, what the file has of it, with the scaling that applies to it, and the newer spelling.
fn rope(
    (name, default): (&str, f64),
    (older_theta, older_scaling): (Option<f64>, Option<RopeScaling>),
    raw: &RawConfig,
    layer_type: LayerType,
    defaults: &mut Defaults,
) -> Result<(f64, f64), String> {
    let newer = match &raw.rope_parameters {
        Some(RopeParameters::PerLayerType(types)) => types.get(&layer_type).cloned().flatten(),
        Some(RopeParameters::One(parameters)) => Some(parameters.clone()),
        None => None,
    };
    // Where a file has both, transformers merges the older spelling into the newer one.
    let newer = newer.unwrap_or_default();
    let theta = defaults.or(name, newer.rope_theta.or(older_theta), default);
    let scaling = older_scaling.filter(|scaling| scaling.rope_type().is_some()).unwrap_or(newer);
    if !(theta > 0.0 && theta.is_finite()) {
        return Err(format!("the rotary base is {theta}; it must be positive"));
    }
    match (scaling.rope_type(), scaling.factor) {
        (None | Some("default"), _) => Ok((theta, 1.0)),
        (Some("linear"), Some(factor)) if factor > 0.0 => Ok((theta, factor)),
        (Some(other), _) => Err(format!("rope_type \"{other}\" with this factor is not supported")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::*;
    use std::path::Path;

    fn attention(json: &str) -> Result<AttentionConfig, String> {
        let config = Config::parse(json, Path::new("config.json")).unwrap();
        config.stacks[0].attention.clone().map_err(|why| why.to_string())
    }

    /// Also where the product, cut to 64 bits, is one that a checkpoint may have.
    #[test]
    fn heads_beyond_any_gemma_are_refused() {
        let cut = (1 << 63) + 64;
        for (heads, head_dim) in [(1u64 << 63, 2u64), (cut, 2), (1 << 32, 1 << 32), (2, 1 << 20)] {
            let reason = attention(&format!(
                r#"{{"model_type": "gemma3_text", "num_attention_heads": {heads},
                     "num_key_value_heads": 1, "head_dim": {head_dim}}}"#
            ));
            assert!(reason.is_err_and(|reason| reason.contains("wider than any Gemma")));
        }
    }

    #[test]
    fn both_spellings_of_gemma3_agree() {
        let hub = attention(
            r#"{"model_type": "gemma3_text", "num_hidden_layers": 3, "sliding_window_pattern": 3,
                "_sliding_window_pattern": 2, "sliding_window": 512, "rope_theta": 2e6,
                "rope_local_base_freq": 3e4,
                "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 8.0}}"#,
        );
        let v5 = attention(
            r#"{"model_type": "gemma3_text", "num_hidden_layers": 3, "sliding_window": 512,
                "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
                "rope_parameters": {
                  "sliding_attention": {"rope_type": "default", "rope_theta": 3e4},
                  "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e6}}}"#,
        );
        let sliding =
            LayerAttention { sliding_window: Some(512), rope_theta: 3e4, rope_factor: 1.0 };
        let full = LayerAttention { sliding_window: None, rope_theta: 2e6, rope_factor: 8.0 };
        assert_eq!(hub.clone().unwrap().layers, [sliding, sliding, full]);
        assert_eq!(hub, v5);
    }

    #[test]
    fn families_differ_where_transformers_does() {
        let gemma = attention(r#"{"model_type": "gemma", "head_dim": 64}"#).unwrap();
        assert!(gemma.scaling == 0.125 && gemma.layers.iter().all(|l| l.sliding_window.is_none()));
        let gemma2 =
            attention(r#"{"model_type": "gemma2", "query_pre_attn_scalar": 144}"#).unwrap();
        assert_eq!((gemma2.softcap, gemma2.scaling), (Some(50.0), 1.0 / 12.0));
        let uncapped = attention(r#"{"model_type": "gemma2", "attn_logit_softcapping": null}"#);
        assert_eq!(uncapped.unwrap().softcap, None);
        assert!(
            gemma2.layers[0].sliding_window.is_some() && gemma2.layers[1].sliding_window.is_none()
        );
        let embedding = attention(
            r#"{"model_type": "gemma3_text", "use_bidirectional_attention": true, "sliding_window": 512}"#,
        )
        .unwrap();
        assert!(!embedding.causal && embedding.layers[0].sliding_window == Some(257));
    }

    #[test]
    fn what_is_not_supported_is_a_sentence() {
        for fields in [
            r#""rope_scaling": {"rope_type": "yarn", "factor": 2.0}"#,
            r#""rope_scaling": {"type": "yarn", "factor": 2.0}"#,
            r#""num_attention_heads": 3, "num_key_value_heads": 2"#,
            r#""head_dim": 7"#,
            r#""use_bidirectional_attention": true"#,
            r#""layer_types": ["sliding_attention"]"#,
            r#""query_pre_attn_scalar": 0"#,
            r#""sliding_window": 0"#,
        ] {
            let json = format!(r#"{{"model_type": "gemma2", {fields}}}"#);
            assert!(attention(&json).is_err(), "{json}");
        }
    }
}
