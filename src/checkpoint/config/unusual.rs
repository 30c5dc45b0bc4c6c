//! Values that no released model has, and what they would do.
//!
//! A config is judged by the released model of its shape, or, if none has it, by what all released models of its
//! family have in common.

use super::attention::{AttentionConfig, LayerAttention, ValuesFrom, out_of_sight};
use super::rope::Rotated;
use super::stack::Stack;
use crate::checkpoint::families::{AttentionProfile, Family, Profile, Release, Scaling, Softcap};
use crate::checkpoint::remark::{Remark, RemarkKind};
use std::fmt;

/// `rms_norm_eps` of every Gemma.
const EPS: f64 = 1e-6;

/// The released model that a stack has the shape of.
pub(in crate::checkpoint) fn release(family: Family, stack: &Stack) -> Option<&'static Release> {
    let width = [stack.hidden_size, stack.intermediate_size];
    let mut releases = family.profile().releases.iter();
    releases.find(|release| [release.hidden_size, release.intermediate_size] == width)
}

/// By whose values a stack's are judged; `None` for those of which blocks alone are run.
pub(in crate::checkpoint) fn whose(family: Family, stack: &Stack) -> Option<String> {
    let profile = family.profile();
    match release(family, stack) {
        Some(release) => Some(release.name.into()),
        None if profile.releases.is_empty() && profile.attention.is_err() => None,
        None => Some(format!("every released {family}")),
    }
}

/// Remarks on a stack's values.
pub(in crate::checkpoint) fn remarks(family: Family, stack: &Stack) -> Vec<Remark> {
    let Some(whose) = whose(family, stack) else { return vec![] };
    let release = release(family, stack);
    let mut judge = Judge { whose, remarks: vec![] };
    if release.is_none() {
        judge.other_family(family, stack);
    }
    let eps = "every norm divides by another root, which shows most where activations are small";
    judge.number("rms_norm_eps", stack.rms_norm_eps, EPS, eps);
    let own = family.profile();
    if let (Ok(attention), Ok(profile)) = (&stack.attention, own.attention.as_ref()) {
        judge.family(attention, profile);
        // All releases of a family have one cap.
        let cap = match (own.final_softcap, own.releases.first()) {
            (Softcap::Default(cap), _) => Some(Some(cap)),
            // No released RecurrentGemma is known here to judge by.
            (Softcap::Always(_), _) => None,
            (Softcap::Unread, _) => Some(None),
            (Softcap::Optional, first) => first.map(|release| release.final_softcap),
        };
        if let Some(cap) = cap {
            let bent = "the logits are bent otherwise";
            judge.differs("final_logit_softcapping", shown(stack.final_softcap), shown(cap), bent);
        }
        judge.streams(stack, own);
        match release {
            Some(release) => {
                judge.release(attention, stack.num_hidden_layers, profile, release);
                judge.feed_forward(stack, release);
            }
            None if matches!(profile.scaling, Scaling::One) => {}
            None => judge.scaling(attention, stack.hidden_size),
        }
    }
    judge.remarks
}

struct Judge {
    /// By which model, or by all of a family.
    whose: String,
    remarks: Vec<Remark>,
}

impl Judge {
    fn differs<T: PartialEq + fmt::Display>(
        &mut self,
        name: &str,
        value: T,
        released: T,
        effect: &str,
    ) {
        if value != released {
            let text = format!("{name} is {value}; {} has {released}: {effect}", self.whose);
            self.remarks.push(Remark::warning(RemarkKind::Unusual, text));
        }
    }

    fn number(&mut self, name: &str, value: f64, released: f64, effect: &str) {
        // Debug is how people write these: 1e-6.
        self.differs(name, format!("{value:?}"), format!("{released:?}"), effect);
    }

    /// Whether a model of another family has the shape.
    fn other_family(&mut self, family: Family, stack: &Stack) {
        let shape = [stack.hidden_size, stack.intermediate_size, stack.num_hidden_layers];
        if let Some((other, release)) = Family::release_of(shape) {
            let text = format!(
                "hidden {} x intermediate {} with {} layers is the shape of {}, which is a {other}, and the config \
                 says {family}: norms, attention and rotation may be another model's",
                shape[0], shape[1], shape[2], release.name
            );
            self.remarks.push(Remark::warning(RemarkKind::Unusual, text));
        }
    }

    /// What all models of a family have in common.
    fn family(&mut self, attention: &AttentionConfig, profile: &AttentionProfile) {
        let rotation =
            "queries and keys are rotated by other angles, so that attention mistakes distances";
        for (name, value, released) in thetas(attention, profile) {
            self.number(name, value, released, rotation);
        }
        if let Softcap::Default(cap) = profile.softcap {
            let effect = "attention scores are bent otherwise";
            self.differs(
                "attn_logit_softcapping",
                shown(attention.softcap),
                shown(Some(cap)),
                effect,
            );
        }
        self.differs("attention_bias", attention.bias, false, "projections add biases");
        if let Some(part) = profile.proportional {
            let odd = attention.layers.iter().filter(|layer| layer.sliding_window.is_none());
            let pairs = |layer: &LayerAttention| match layer.rotated {
                Rotated::Pairs(pairs) => pairs,
                Rotated::All | Rotated::First(_) => layer.head_dim / 2,
            };
            let released = |layer: &LayerAttention| (part * layer.head_dim as f64 / 2.0) as usize;
            if let Some(layer) = odd.into_iter().find(|layer| pairs(layer) != released(layer)) {
                let effect = "another part of each head says where a token is";
                let name = "the number of rotated pairs (rope_type, partial_rotary_factor)";
                self.differs(name, pairs(layer), released(layer), effect);
            }
        }
    }

    /// Per-layer inputs, streams and what embeddings are made of, which all models of a family have alike.
    fn streams(&mut self, stack: &Stack, profile: &Profile) {
        if let (Some(own), Some(released)) = (&stack.altup, &profile.altup) {
            let effect = "it has other residual streams";
            self.differs("altup_num_inputs", own.inputs, released.inputs, effect);
            self.differs("altup_active_idx", own.active, released.active, effect);
            let scaled = "the computed stream meets the per-layer input in another size";
            let name = "altup_correct_scale";
            self.differs(name, own.correct_scale, released.correct_scale, scaled);
            let rank = "the path beside attention is another";
            self.differs("laurel_rank", own.laurel_rank, released.laurel_rank, rank);
        }
        if let (Some(own), Some(released)) = (stack.embedding_dim, profile.embedding_dim) {
            self.differs("embedding_dim", own, released, "embeddings have another width");
        }
    }

    fn release(
        &mut self,
        attention: &AttentionConfig,
        layers: usize,
        profile: &AttentionProfile,
        release: &Release,
    ) {
        let heads = "the weights are cut into other heads";
        self.differs("num_hidden_layers", layers, release.num_hidden_layers, "it is another depth");
        self.differs(
            "num_attention_heads",
            attention.num_attention_heads,
            release.num_attention_heads,
            heads,
        );
        self.key_value_heads(attention, release);
        let shared = attention.layers.iter().filter(|layer| layer.shares.is_some()).count();
        let effect = "other layers have keys and values of their own";
        self.differs("num_kv_shared_layers", shared, release.shared_layers, effect);
        let same = |layer: &LayerAttention| layer.values == ValuesFrom::Keys;
        let same = attention.layers.iter().any(same);
        let effect = "values of full attention come from another projection";
        self.differs("attention_k_eq_v", same, release.keys_are_values, effect);
        let sides = "positions see others than they were trained to see";
        self.differs("use_bidirectional_attention", !attention.causal, !release.causal, sides);
        if matches!(profile.scaling, Scaling::Scalar(_)) {
            let scalar = attention.scaling.powi(-2);
            let times = (release.scalar / scalar).sqrt();
            let effect = format!("attention scores are {times:.3} times as large");
            // Only as exact as its root's square.
            let scalar = (scalar * 1e6).round() / 1e6;
            self.number("query_pre_attn_scalar", scalar, release.scalar, &effect);
        }
        self.windows(attention, profile, release);
    }

    /// Of the first layer whose heads are others, of either kind of attention.
    fn key_value_heads(&mut self, attention: &AttentionConfig, release: &Release) {
        let effect = "the weights are cut into other heads";
        let own = [release.num_key_value_heads, release.head_dim];
        let names = ["num_key_value_heads", "head_dim"];
        let kinds = match release.global {
            None => vec![(None, own, names)],
            Some(global) => vec![
                (Some(false), own, names),
                (Some(true), global, ["num_global_key_value_heads", "global_head_dim"]),
            ],
        };
        for (full, released, names) in kinds {
            let is_of_kind =
                |layer: &&LayerAttention| full.is_none_or(|f| f == layer.sliding_window.is_none());
            let heads = |layer: &LayerAttention| [layer.num_key_value_heads, layer.head_dim];
            let mut of_kind = attention.layers.iter().filter(is_of_kind).map(heads);
            let Some(odd) = of_kind.find(|&heads| heads != released) else { continue };
            for ((name, own), released) in names.into_iter().zip(odd).zip(released) {
                self.differs(name, own, released, effect);
            }
        }
    }

    /// What a layer has behind its attention.
    fn feed_forward(&mut self, stack: &Stack, release: &Release) {
        /// What Gemma 3n's first layers set to 0.
        const SPARSE: f64 = 0.95;
        let layers = || stack.feed_forward.iter().enumerate();
        let sparsity = |i: usize| if i < release.sparse_layers { SPARSE } else { 0.0 };
        if let Some((i, layer)) = layers().find(|&(i, layer)| layer.sparsity != sparsity(i)) {
            let name = format!("activation_sparsity_pattern of layer {i}");
            let effect = "another part of the gate is set to 0";
            self.number(&name, layer.sparsity, sparsity(i), effect);
        }
        let shared = release.num_hidden_layers - release.shared_layers;
        let wide = |i: usize| release.double_wide && i >= shared;
        let width = |i: usize| release.intermediate_size * if wide(i) { 2 } else { 1 };
        if let Some((i, layer)) = layers().find(|&(i, layer)| layer.intermediate_size != width(i)) {
            let name = format!("the width of layer {i} (intermediate_size, use_double_wide_mlp)");
            self.differs(&name, layer.intermediate_size, width(i), "the block is another");
        }
        let experts = stack.feed_forward.first().and_then(|layer| layer.experts);
        let experts = experts.map(|own| [own.num_experts, own.top_k, own.intermediate_size]);
        let effect = "other experts stand beside the blocks";
        match (experts, release.experts) {
            (Some(own), Some(released)) => {
                let names = ["num_experts", "top_k_experts", "moe_intermediate_size"];
                for ((name, own), released) in names.into_iter().zip(own).zip(released) {
                    self.differs(name, own, released, effect);
                }
            }
            (own, released) => {
                self.differs("enable_moe_block", own.is_some(), released.is_some(), effect);
            }
        }
        let size = stack.per_layer_inputs.map_or(0, |inputs| inputs.size);
        let effect = "layers have another input of their own";
        self.differs("hidden_size_per_layer_input", size, release.per_layer_input, effect);
    }

    fn windows(
        &mut self,
        attention: &AttentionConfig,
        profile: &AttentionProfile,
        release: &Release,
    ) {
        let full = |(_, layer): &(usize, &LayerAttention)| layer.sliding_window.is_none();
        let layers = || attention.layers.iter().enumerate();
        if let Some((_, layer)) = layers().find(full) {
            let effect = "positions are stretched otherwise before they are rotated";
            self.number(
                "the factor of rope_scaling",
                layer.rope_factor,
                release.rope_factor,
                effect,
            );
        }
        let (Some(window), Some(sliding)) = (release.window, &profile.sliding) else { return };
        let window = out_of_sight(window, profile.bidirectional, attention.causal);
        if let Some(own) = attention.layers.iter().find_map(|layer| layer.sliding_window) {
            let effect = "layers of sliding attention see another stretch of text";
            self.differs("sliding_window", own, window, effect);
        }
        let of_type = |full: bool| if full { "full" } else { "sliding" };
        let full_every = release.full_every.unwrap_or(sliding.full_every);
        let expected = |i: usize| (i + 1).is_multiple_of(full_every);
        let odd = layers().find(|&(i, layer)| full(&(i, layer)) != expected(i));
        if let Some((i, layer)) = odd {
            let own = of_type(layer.sliding_window.is_none());
            let effect = "it sees other positions, and rotates by another base where there are two";
            self.differs(&format!("attention of layer {i}"), own, of_type(expected(i)), effect);
        }
    }

    /// Released models scale scores by the width of a head, or by that of the hidden state over the heads.
    fn scaling(&mut self, attention: &AttentionConfig, hidden: usize) {
        let Some(head_dim) = attention.layers.first().map(|layer| layer.head_dim) else { return };
        let near = |width: f64| (attention.scaling.powi(-2) / width - 1.0).abs() < 1e-9;
        let per_head = hidden as f64 / attention.num_attention_heads as f64;
        if !near(head_dim as f64) && !near(per_head) {
            let text = format!(
                "query_pre_attn_scalar is {:.0}; {} has head_dim there ({}), or hidden_size over heads ({per_head}): \
                 attention scores are of another size",
                attention.scaling.powi(-2),
                self.whose,
                head_dim
            );
            self.remarks.push(Remark::warning(RemarkKind::Unusual, text));
        }
    }
}

/// The bases of the rotary embedding that are in use, by the names of their fields, with the released ones.
fn thetas(
    attention: &AttentionConfig,
    profile: &AttentionProfile,
) -> Vec<(&'static str, f64, f64)> {
    let local = profile.sliding.as_ref().and_then(|sliding| sliding.rope_theta);
    let windows = attention.layers.iter().any(|layer| layer.sliding_window.is_some());
    let mut thetas: Vec<(&str, f64, f64)> = vec![];
    for layer in &attention.layers {
        let theta = layer.rope_theta;
        let found = match local {
            Some(local) if layer.sliding_window.is_some() => ("rope_local_base_freq", theta, local),
            // Windows that a file switches off leave these layers' own base.
            Some(local) if !windows && theta == local => continue,
            _ => ("rope_theta", theta, profile.rope_theta),
        };
        if !thetas.contains(&found) {
            thetas.push(found);
        }
    }
    thetas
}

fn shown(cap: Option<f64>) -> String {
    cap.map_or("null".into(), |cap| format!("{cap:?}"))
}
