//! The attention part of a config: what a layer does before its MLP.

use super::limits::MAX_WIDTH;
use super::prefix::Prefix;
use super::raw::{LayerType, RawBidirectional, RawConfig};
use super::rope::{Rope, Rotated};
use crate::checkpoint::families::{
    AttentionProfile, Bidirectional, Cross, Family, Model, Scaling, Sliding,
};
use crate::checkpoint::notes::{Notes, Refusal};
use crate::checkpoint::remark::{Remark, RemarkKind};
use serde::Serialize;

/// Attention as all layers of a stack have it.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionConfig {
    /// What a layer calls it: `self_attn`.
    pub name: &'static str,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Whether the projections of queries, keys and values have biases.
    pub bias: bool,
    /// Whether the output's projection has one.
    pub output_bias: bool,
    /// Whether queries and keys are normed per head (Gemma 3).
    pub qk_norm: bool,
    /// Whether values are normed per head, without a weight (Gemma 3n, 4).
    pub v_norm: bool,
    /// The factor on the scores: `query_pre_attn_scalar^-1/2`, or 1.
    pub scaling: f64,
    /// `cap·tanh(scores/cap)`, where the family has it (Gemma 2, VaultGemma).
    pub softcap: Option<f64>,
    /// Whether a position sees earlier ones only. EmbeddingGemma's see both sides.
    pub causal: bool,
    /// Attention to an encoder's states, of a decoder that has one beside it.
    pub cross: Option<CrossAttentionConfig>,
    /// The tokens at a text's start that all see one another, in models that have such tokens (PaliGemma).
    pub prefix: Option<Prefix>,
    /// The position of a text's first token: 0, but 1 in PaliGemma.
    pub first_position: usize,
    /// What differs from layer to layer.
    pub layers: Vec<LayerAttention>,
}

/// Attention of every layer of a decoder to an encoder's states. Heads, scaling and soft-cap are those of self attention;
/// nothing is rotated, and every state but padding is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrossAttentionConfig {
    /// Where it takes place.
    pub kind: Cross,
    /// Width of the encoder's states.
    pub hidden_size: usize,
}

/// Attention of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LayerAttention {
    /// Key and value heads, each shared by an equal number of query heads.
    pub num_key_value_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// A query sees keys at a distance below this; `None` sees all.
    pub sliding_window: Option<usize>,
    /// Where positions see both sides: it sees keys behind it at a distance below this, if that is not `sliding_window`
    /// (T5Gemma 2's encoder).
    pub sliding_window_behind: Option<usize>,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Positions are divided by this (`rope_type: "linear"`, or the `factor` of "proportional"); 1 where nothing is
    /// scaled.
    pub rope_factor: f64,
    /// What of a head is rotated.
    pub rotated: Rotated,
    /// Where values come from.
    pub values: ValuesFrom,
    /// The earlier layer whose keys and values these are (Gemma 3n and 4); `None` for its own.
    pub shares: Option<usize>,
}

/// Where a layer's values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValuesFrom {
    /// A projection of their own.
    Projection,
    /// What the keys' projection returns, before norm and rotary embedding (Gemma 4's `attention_k_eq_v`).
    Keys,
}

impl LayerAttention {
    /// The projections of its own in front of attention under so many heads, in the order in which one matrix holds them,
    /// with the rows of each; `None` if there are more rows than can be counted.
    pub(crate) fn projections(&self, heads: usize) -> Option<Vec<(&'static str, usize)>> {
        let keys = ("k_proj", self.num_key_value_heads.checked_mul(self.head_dim)?);
        let mut projections = vec![("q_proj", heads.checked_mul(self.head_dim)?)];
        if self.shares.is_none() {
            projections.push(keys);
            if self.values == ValuesFrom::Projection {
                projections.push(("v_proj", keys.1));
            }
        }
        Some(projections)
    }
}

impl AttentionConfig {
    /// Resolves the fields for a family, or says in a sentence what is not supported or cannot be.
    pub(in crate::checkpoint) fn resolve(
        family: Family,
        model: &Model,
        profile: &AttentionProfile,
        raw: &RawConfig,
        layers: usize,
        notes: &mut Notes,
    ) -> Result<Self, Refusal> {
        let impossible = |reason| Err(Refusal::Impossible(reason));
        let heads = profile.num_attention_heads;
        let heads = notes.or("num_attention_heads", raw.num_attention_heads, heads);
        let hidden = raw.hidden_size.unwrap_or(family.profile().sizes.hidden_size);
        let (kv_heads, head_dim) = match profile.heads_by_size {
            true => (heads, hidden.checked_div(heads).unwrap_or(0)),
            false => (profile.num_key_value_heads, profile.head_dim),
        };
        let kv_heads = notes.or("num_key_value_heads", raw.num_key_value_heads, kv_heads);
        let head_dim = notes.or("head_dim", raw.head_dim, head_dim);
        let scalar = match profile.scaling {
            Scaling::Scalar(default) => {
                notes.or("query_pre_attn_scalar", raw.query_pre_attn_scalar, default)
            }
            Scaling::HeadDim => head_dim as f64,
            Scaling::One => 1.0,
        };
        if !(scalar > 0.0 && scalar.is_finite()) {
            return impossible(format!("query_pre_attn_scalar is {scalar}; it must be positive"));
        }
        let softcap =
            profile.softcap.resolve("attn_logit_softcapping", raw.attn_logit_softcapping, notes);
        let softcap = softcap.map_err(Refusal::Impossible)?;
        // PaliGemma's configs say of themselves that they are bidirectional, which the prompt is.
        let causal = model.prefix || is_causal(family, profile, raw)?;
        let types = layer_types(profile, raw, layers, notes)?;
        let shared = first_shared(profile, raw, layers, notes)?;
        let own = Heads { kv_heads, head_dim };
        let mut resolved = vec![];
        for (index, layer_type) in types.iter().enumerate() {
            let of_layer = own.of_layer(index, layer_type, profile, raw, notes);
            of_layer.check(heads)?;
            let (window, rope) = layer(profile, raw, layer_type, of_layer.head_dim, causal, notes)?;
            let shares = match index >= shared {
                true => Some(last_of_type(layer_type, &types[..shared]).ok_or_else(|| {
                    Refusal::Impossible(format!(
                        "layer {index} shares keys and values, and no layer before {shared} has its kind of attention"
                    ))
                })?),
                false => None,
            };
            if let Some(earlier) = shares {
                of_layer.check_shared(index, earlier, &resolved)?;
            }
            let keys_are_values = *layer_type == LayerType::Full
                && profile
                    .global
                    .as_ref()
                    .is_some_and(|global| global.keys_are_values.holds(raw.attention_k_eq_v));
            resolved.push(LayerAttention {
                num_key_value_heads: of_layer.kv_heads,
                head_dim: of_layer.head_dim,
                sliding_window: window,
                sliding_window_behind: window_behind(profile, raw, layer_type),
                rope_theta: rope.theta,
                rope_factor: rope.factor,
                rotated: rope.rotated,
                values: if keys_are_values { ValuesFrom::Keys } else { ValuesFrom::Projection },
                shares,
            });
        }
        let bias = raw.attention_bias.unwrap_or(false);
        Ok(Self {
            name: profile.name,
            num_attention_heads: heads,
            bias,
            output_bias: bias || profile.output_bias,
            qk_norm: profile.qk_norm,
            v_norm: profile.v_norm,
            scaling: scalar.powf(-0.5),
            softcap,
            causal,
            cross: None,
            prefix: model.prefix.then_some(Prefix::All),
            first_position: usize::from(model.prefix),
            layers: resolved,
        })
    }

    /// How many of a text's first tokens may see what comes behind them: 0 if none does, `usize::MAX` if all do.
    pub fn seen_ahead(&self) -> usize {
        match self.prefix {
            _ if !self.causal => usize::MAX,
            None => 0,
            Some(prefix) => prefix.of(usize::MAX),
        }
    }
}

/// Heads of keys and values, and the width of all heads.
#[derive(Clone, Copy)]
struct Heads {
    kv_heads: usize,
    head_dim: usize,
}

impl Heads {
    /// Those of a layer. transformers 5 writes what differs into `per_layer_config`, and reads the older keys where it is
    /// not there.
    fn of_layer(
        self,
        index: usize,
        layer_type: &LayerType,
        profile: &AttentionProfile,
        raw: &RawConfig,
        notes: &mut Notes,
    ) -> Self {
        let Some(global) = &profile.global else { return self };
        if let Some(layers) = &raw.per_layer_config {
            let layer = layers.get(&index);
            let kv_heads = layer.and_then(|layer| layer.num_key_value_heads);
            let head_dim = layer.and_then(|layer| layer.head_dim);
            return Self {
                kv_heads: kv_heads.unwrap_or(self.kv_heads),
                head_dim: head_dim.unwrap_or(self.head_dim),
            };
        }
        if *layer_type != LayerType::Full {
            return self;
        }
        let counts = global.always || raw.attention_k_eq_v == Some(true);
        let kv_heads = raw.num_global_key_value_heads.or(global.num_key_value_heads);
        Self {
            kv_heads: kv_heads.filter(|_| counts).unwrap_or(self.kv_heads),
            head_dim: notes.or("global_head_dim", raw.global_head_dim, global.head_dim),
        }
    }

    /// Checks that the keys and values of an earlier layer fit a layer that shares them.
    fn check_shared(
        self,
        index: usize,
        earlier: usize,
        resolved: &[LayerAttention],
    ) -> Result<(), Refusal> {
        let own = [self.kv_heads, self.head_dim];
        match resolved.get(earlier).map(|layer| [layer.num_key_value_heads, layer.head_dim]) {
            Some(lent) if lent != own => Err(Refusal::Impossible(format!(
                "layer {index} shares the keys and values of layer {earlier}, which has {} heads of {} for them, and not \
                 {} of {}",
                lent[0], lent[1], own[0], own[1]
            ))),
            _ => Ok(()),
        }
    }

    fn check(self, heads: usize) -> Result<(), Refusal> {
        let impossible = |reason| Err(Refusal::Impossible(reason));
        let Self { kv_heads, head_dim } = self;
        if heads == 0 || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return impossible(format!(
                "{heads} attention heads cannot share {kv_heads} key-value heads"
            ));
        }
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return impossible(format!(
                "head_dim is {head_dim}; rotary embeddings need an even one"
            ));
        }
        if heads.checked_mul(head_dim).is_none_or(|width| width > MAX_WIDTH) {
            return impossible(format!(
                "{heads} attention heads of {head_dim} are wider than any Gemma; the limit is {MAX_WIDTH}"
            ));
        }
        Ok(())
    }
}

/// Checks that what a config has by layer is of its layers and is followed.
pub(super) fn check_per_layer(
    family: Family,
    raw: &RawConfig,
    layers: usize,
    notes: &mut Notes,
) -> Result<(), Refusal> {
    let Some(by_layer) = &raw.per_layer_config else { return Ok(()) };
    if let Some(beyond) = by_layer.keys().find(|&&layer| layer >= layers) {
        return Err(Refusal::Impossible(format!(
            "per_layer_config has layer {beyond}; num_hidden_layers is {layers}"
        )));
    }
    let other = by_layer.iter().find_map(|(layer, raw)| Some((layer, raw.other.as_ref()?)));
    if let Some((layer, key)) = other {
        return Err(Refusal::Unsupported(format!(
            "per_layer_config gives layer {layer} a {key} of its own, which is not supported"
        )));
    }
    let global = family.profile().attention.as_ref().ok().and_then(|own| own.global.as_ref());
    if global.is_none() && !by_layer.is_empty() {
        let reason = "per_layer_config is not supported: its layers have heads of one kind";
        return Err(Refusal::Unsupported(reason.into()));
    }
    let older = [
        ("global_head_dim", raw.global_head_dim),
        ("num_global_key_value_heads", raw.num_global_key_value_heads),
    ];
    for (name, _) in older.into_iter().filter(|(_, value)| value.is_some()) {
        let text = format!("{name} is not used, as in transformers: per_layer_config is there");
        notes.add(Remark::note(RemarkKind::Unused, text));
    }
    Ok(())
}

/// Whether positions see earlier ones only.
fn is_causal(family: Family, profile: &AttentionProfile, raw: &RawConfig) -> Result<bool, Refusal> {
    let unsupported = |what: &str| {
        let reason = format!("{what} in {family} is not supported");
        Err(Refusal::Unsupported(reason))
    };
    use RawBidirectional as Raw;
    match (profile.bidirectional, &raw.use_bidirectional_attention) {
        (Bidirectional::Always | Bidirectional::AlwaysHalved, _) => Ok(false),
        (_, None | Some(Raw::Bool(false))) => Ok(true),
        (Bidirectional::HalfWindow, Some(Raw::Bool(true))) => Ok(false),
        // It is images that are seen from both sides.
        (Bidirectional::HalfWindowInclusive, Some(Raw::Of(of))) if of == "vision" => Ok(true),
        (Bidirectional::HalfWindowInclusive, Some(Raw::Of(of))) if of == "all" => Ok(false),
        (_, Some(Raw::Bool(true))) => unsupported("bidirectional attention"),
        (_, Some(Raw::Of(of))) => unsupported(&format!("use_bidirectional_attention \"{of}\"")),
    }
}

/// The first layer that has no keys and values of its own.
pub(super) fn first_shared(
    profile: &AttentionProfile,
    raw: &RawConfig,
    layers: usize,
    notes: &mut Notes,
) -> Result<usize, Refusal> {
    let Some(default) = profile.shared_layers else { return Ok(layers) };
    let shared = notes.or("num_kv_shared_layers", raw.num_kv_shared_layers, default);
    match layers.checked_sub(shared) {
        Some(first) if first > 0 => Ok(first),
        _ => Err(Refusal::Impossible(format!(
            "num_kv_shared_layers is {shared} of {layers} layers: none is left to share with"
        ))),
    }
}

fn last_of_type(layer_type: &LayerType, layers: &[LayerType]) -> Option<usize> {
    layers.iter().rposition(|other| other == layer_type)
}

/// The type of every layer: listed, or every n-th one full.
fn layer_types(
    profile: &AttentionProfile,
    raw: &RawConfig,
    layers: usize,
    notes: &mut Notes,
) -> Result<Vec<LayerType>, Refusal> {
    let Some(sliding) = &profile.sliding else {
        return Ok(vec![LayerType::Full; layers]);
    };
    let listed = raw.layer_types.as_ref().filter(|_| profile.recurrent.is_none());
    let Some(listed) = listed else {
        let pattern = match sliding.reads_pattern {
            true => {
                let listed = raw.sliding_window_pattern;
                notes.or("sliding_window_pattern", listed, sliding.full_every)
            }
            false => sliding.full_every,
        };
        let full = |i: usize| {
            (i + 1).checked_rem(pattern) == Some(0) || (sliding.last_full && i + 1 == layers)
        };
        return Ok((0..layers)
            .map(|i| if full(i) { LayerType::Full } else { LayerType::Sliding })
            .collect());
    };
    if listed.len() != layers {
        let reason = format!("layer_types lists {} layers of {layers}", listed.len());
        return Err(Refusal::Impossible(reason));
    }
    let other = listed.iter().find_map(|layer_type| match layer_type {
        LayerType::Other(name) => Some(name),
        _ => None,
    });
    if let Some(name) = other {
        return Err(Refusal::Unsupported(format!("layer type \"{name}\" is not supported")));
    }
    let mut types = listed.clone();
    if let (true, Some(last)) = (sliding.last_full, types.last_mut())
        && *last != LayerType::Full
    {
        notes.chosen(
            "layer_types says sliding_attention of the last layer: it has full attention, as in transformers".into(),
        );
        *last = LayerType::Full;
    }
    Ok(types)
}

/// Window and rotary embedding of a layer.
fn layer(
    profile: &AttentionProfile,
    raw: &RawConfig,
    layer_type: &LayerType,
    head_dim: usize,
    causal: bool,
    notes: &mut Notes,
) -> Result<(Option<usize>, Rope), Refusal> {
    let sliding = profile.sliding.as_ref().filter(|_| *layer_type == LayerType::Sliding);
    let sliding_window = match sliding {
        None => None,
        Some(sliding) => window(profile, sliding, raw, causal, notes)?,
    };
    Ok((sliding_window, Rope::resolve(profile, raw, layer_type, head_dim, notes)?))
}

/// At what distance a key is out of sight; `None` where the file switches windows off.
fn window(
    profile: &AttentionProfile,
    sliding: &Sliding,
    raw: &RawConfig,
    causal: bool,
    notes: &mut Notes,
) -> Result<Option<usize>, Refusal> {
    let key = profile.window_key;
    let renamed = raw.attention_window_size.filter(|_| key == "attention_window_size");
    match notes.or_null(key, renamed.or(raw.sliding_window), sliding.window) {
        None => {
            notes.chosen(format!(
                "{key} is null: layers of sliding attention see every position before them"
            ));
            Ok(None)
        }
        Some(0) => {
            Err(Refusal::Impossible(format!("{key} is 0; a position must see at least itself")))
        }
        Some(window) => Ok(Some(out_of_sight(window, profile.bidirectional, causal))),
    }
}

/// The distance at which a key is out of sight for a `sliding_window`.
pub(super) fn out_of_sight(window: usize, bidirectional: Bidirectional, causal: bool) -> usize {
    match bidirectional {
        _ if causal => window,
        // transformers' Gemma3TextConfig: half the window to each side, exclusive.
        Bidirectional::No | Bidirectional::HalfWindow => window / 2 + 1,
        // Gemma4TextConfig halves it so too, and its mask has it inclusive.
        Bidirectional::HalfWindowInclusive => (window / 2).saturating_add(2),
        Bidirectional::Always => window.saturating_add(1),
        // T5Gemma 2's sliding_window_mask_function.
        Bidirectional::AlwaysHalved => window.div_ceil(2),
    }
}

/// At what distance a key behind a query is out of sight, where that is not [`window`]'s.
fn window_behind(
    profile: &AttentionProfile,
    raw: &RawConfig,
    layer_type: &LayerType,
) -> Option<usize> {
    let sliding = profile.sliding.as_ref().filter(|_| *layer_type == LayerType::Sliding)?;
    let window = raw.sliding_window.unwrap_or(Some(sliding.window))?;
    let uneven = profile.bidirectional == Bidirectional::AlwaysHalved && window.is_multiple_of(2);
    uneven.then_some(window / 2 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::config::Config;
    use std::path::Path;

    fn attention(json: &str) -> Result<AttentionConfig, String> {
        let config = Config::parse(json, Path::new("config.json")).unwrap();
        config.stacks[0].attention.clone().map_err(|why| why.to_string())
    }

    /// The sentence about a config that cannot be.
    fn impossible(json: &str) -> String {
        Config::parse(json, Path::new("config.json")).unwrap_err().to_string()
    }

    /// Also where the product, cut to 64 bits, is one that a checkpoint may have.
    #[test]
    fn heads_beyond_any_gemma_are_refused() {
        let cut = (1 << 63) + 64;
        for (heads, head_dim) in [(1u64 << 63, 2u64), (cut, 2), (1 << 32, 1 << 32), (2, 1 << 20)] {
            let reason = impossible(&format!(
                r#"{{"model_type": "gemma3_text", "num_attention_heads": {heads},
                     "num_key_value_heads": 1, "head_dim": {head_dim}}}"#
            ));
            assert!(reason.contains("wider than any Gemma"), "{reason}");
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
        let sliding = LayerAttention {
            num_key_value_heads: 4,
            head_dim: 256,
            sliding_window: Some(512),
            sliding_window_behind: None,
            rope_theta: 3e4,
            rope_factor: 1.0,
            rotated: Rotated::All,
            values: ValuesFrom::Projection,
            shares: None,
        };
        let full =
            LayerAttention { sliding_window: None, rope_theta: 2e6, rope_factor: 8.0, ..sliding };
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

    /// A base or a factor that all layers share does not reach those that have a base of their own.
    #[test]
    fn every_spelling_of_the_rotation() {
        let of = |fields: &str| {
            let json = format!(
                r#"{{"model_type": "gemma3_text", "num_hidden_layers": 2, "sliding_window": 512,
                    "layer_types": ["sliding_attention", "full_attention"], {fields}}}"#
            );
            let layers = attention(&json).unwrap().layers;
            [
                layers[0].rope_theta,
                layers[0].rope_factor,
                layers[1].rope_theta,
                layers[1].rope_factor,
            ]
        };
        let [sliding, full] =
            [r#""rope_theta": 3e4"#, r#""rope_type": "linear", "factor": 4.0, "rope_theta": 2e6"#];
        let older = r#""rope_theta": 2e6, "rope_local_base_freq": 3e4, "rope_scaling": {"rope_type": "linear", "factor": 4.0}"#;
        for fields in [
            older.to_string(),
            format!(
                r#""rope_parameters": {{"sliding_attention": {{{sliding}}}, "full_attention": {{{full}}}}}"#
            ),
            format!(r#""rope_local_base_freq": 3e4, "rope_parameters": {{{full}}}"#),
            format!(
                r#""rope_parameters": {{"sliding_attention": {{{sliding}}}, "full_attention": {{{full}}}, "rope_theta": 9.0}}"#
            ),
            format!(
                r#""rope_parameters": {{"sliding_attention": {{{sliding}}}, "full_attention": null, {full}}}"#
            ),
            format!(r#""rope_parameters": {{"sliding_attention": {{{sliding}}}}}, {older}"#),
            format!(r#""rope_parameters": null, {older}"#),
        ] {
            assert_eq!(of(&fields), [3e4, 1.0, 2e6, 4.0], "{fields}");
        }
        assert_eq!(of(r#""rope_parameters": {"rope_theta": 2e6}"#), [1e4, 1.0, 2e6, 1.0]);
        assert_eq!(of(r#""rope_theta": 2e6"#), [1e4, 1.0, 2e6, 1.0]);
        assert_eq!(of(r#""rope_scaling": {"type": "default"}"#), [1e4, 1.0, 1e6, 1.0]);
        // A family of one base.
        for fields in [
            r#""rope_theta": 2e4"#,
            r#""rope_parameters": {"rope_theta": 2e4}"#,
            r#""rope_parameters": {"rope_theta": 2e4, "full_attention": null}"#,
        ] {
            let layers =
                attention(&format!(r#"{{"model_type": "gemma2", {fields}}}"#)).unwrap().layers;
            assert!(layers.iter().all(|layer| layer.rope_theta == 2e4), "{fields}");
        }
    }

    #[test]
    fn spellings_that_disagree_are_told() {
        for (fields, words) in [
            (r#""rope_theta": 1e4, "rope_parameters": {"rope_theta": 2e4}"#, "20000 is used"),
            (
                r#""rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "linear", "factor": 4.0}"#,
                "rope_scaling is used",
            ),
            (r#""sliding_window": null"#, "sliding_window is null"),
        ] {
            let json = format!(r#"{{"model_type": "gemma2", {fields}}}"#);
            let remarks = Config::parse(&json, Path::new("config.json")).unwrap().remarks;
            let told = remarks.iter().filter(|remark| remark.text.contains(words)).count();
            assert_eq!(told, 1, "{remarks:?}");
        }
    }

    #[test]
    fn windows_can_be_switched_off() {
        let layers =
            attention(r#"{"model_type": "gemma3_text", "sliding_window": null}"#).unwrap().layers;
        assert!(layers.iter().all(|layer| layer.sliding_window.is_none()));
        assert_eq!([layers[0].rope_theta, layers[5].rope_theta], [1e4, 1e6]);
    }

    /// The layers' numbers may be padded, and the older keys beside them are not used.
    #[test]
    fn heads_by_layer() {
        let older =
            r#""global_head_dim": 32, "num_global_key_value_heads": 2, "attention_k_eq_v": true"#;
        let newer = r#""attention_k_eq_v": true, "per_layer_config": {"05": {"head_dim": 32, "num_key_value_heads": 2},
            "11": {"head_dim": 32, "num_key_value_heads": 2}}"#;
        let json = |fields: &str| {
            format!(
                r#"{{"model_type": "gemma4_text", "num_hidden_layers": 12, "num_attention_heads": 8,
                    "num_key_value_heads": 4, "head_dim": 16, {fields}}}"#
            )
        };
        let of = |fields: &str| attention(&json(fields)).unwrap().layers;
        assert_eq!(of(older), of(newer));
        assert_eq!((of(newer)[5].head_dim, of(newer)[4].head_dim), (32, 16));
        let both = format!(r#"{newer}, "global_head_dim": 64"#);
        assert_eq!(of(&both), of(newer));
        let remarks = Config::parse(&json(&both), Path::new("config.json")).unwrap().remarks;
        let told =
            remarks.iter().find(|remark| remark.text.contains("global_head_dim is not used"));
        assert!(told.is_some_and(|remark| !remark.is_warning()), "{remarks:?}");
    }

    #[test]
    fn what_is_not_supported_is_a_sentence() {
        for fields in [
            r#""rope_scaling": {"rope_type": "yarn", "factor": 2.0}"#,
            r#""rope_scaling": {"type": "yarn", "factor": 2.0}"#,
            r#""rope_parameters": {"full_attention": {"rope_type": "llama3", "factor": 2.0}}"#,
            r#""use_bidirectional_attention": true"#,
            r#""partial_rotary_factor": 0.5"#,
        ] {
            let json = format!(r#"{{"model_type": "gemma2", {fields}}}"#);
            assert!(attention(&json).is_err(), "{json}");
        }
        let other: String = r#", "chunked_attention""#.repeat(25);
        let json =
            format!(r#"{{"model_type": "gemma2", "layer_types": ["full_attention"{other}]}}"#);
        assert!(attention(&json).unwrap_err().contains("chunked_attention"));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for fields in [
            r#""num_attention_heads": 3, "num_key_value_heads": 2"#,
            r#""num_attention_heads": 0, "num_key_value_heads": 0"#,
            r#""head_dim": 7"#,
            r#""head_dim": 0"#,
            r#""layer_types": ["sliding_attention"]"#,
            r#""query_pre_attn_scalar": 0"#,
            r#""sliding_window": 0"#,
            r#""attn_logit_softcapping": -1.0"#,
            r#""rope_theta": 0.0"#,
            r#""rope_scaling": {"rope_type": "linear", "factor": 0.0}"#,
            r#""rope_scaling": {"rope_type": "linear"}"#,
        ] {
            let json = format!(r#"{{"model_type": "gemma2", {fields}}}"#);
            assert!(impossible(&json).starts_with("config.json: "), "{json}");
        }
    }
}
