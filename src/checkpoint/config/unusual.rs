//! Values that no released model has, and what they would do.
//!
//! A config is judged by the released model of its shape, or, if none has it, by what all released models of its
//! family have in common.

use super::attention::{AttentionConfig, LayerAttention};
use super::stack::Stack;
use crate::checkpoint::families::{AttentionProfile, Family, Release, Scaling, Softcap};
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
    match release(family, stack) {
        Some(release) => Some(release.name.into()),
        None if family.profile().releases.is_empty() => None,
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
    let attention = family.profile().attention.as_ref();
    if let (Ok(attention), Ok(profile)) = (&stack.attention, attention) {
        let final_cap = match family.profile().final_softcap {
            Softcap::Default(cap) | Softcap::Always(cap) => Some(cap),
            Softcap::Unread | Softcap::Optional => None,
        };
        judge.family(stack, final_cap, attention, profile);
        match release {
            Some(release) => judge.release(attention, stack.num_hidden_layers, profile, release),
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
    fn family(
        &mut self,
        stack: &Stack,
        final_cap: Option<f64>,
        attention: &AttentionConfig,
        profile: &AttentionProfile,
    ) {
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
        let bent = "the logits are bent otherwise";
        self.differs("final_logit_softcapping", shown(stack.final_softcap), shown(final_cap), bent);
        self.differs("attention_bias", attention.bias, false, "projections add biases");
    }

    fn release(
        &mut self,
        attention: &AttentionConfig,
        layers: usize,
        profile: &AttentionProfile,
        release: &Release,
    ) {
        let heads = "the weights are cut into other heads";
        let Some(first) = attention.layers.first() else { return };
        let kv_heads = first.num_key_value_heads;
        self.differs("num_hidden_layers", layers, release.num_hidden_layers, "it is another depth");
        self.differs(
            "num_attention_heads",
            attention.num_attention_heads,
            release.num_attention_heads,
            heads,
        );
        self.differs("num_key_value_heads", kv_heads, release.num_key_value_heads, heads);
        self.differs("head_dim", first.head_dim, release.head_dim, heads);
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
        let window = if attention.causal { window } else { window / 2 + 1 };
        if let Some(own) = attention.layers.iter().find_map(|layer| layer.sliding_window) {
            let effect = "layers of sliding attention see another stretch of text";
            self.differs("sliding_window", own, window, effect);
        }
        let of_type = |full: bool| if full { "full" } else { "sliding" };
        let expected = |i: usize| (i + 1).is_multiple_of(sliding.full_every);
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
