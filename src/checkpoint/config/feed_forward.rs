//! What a layer does behind its attention, and what it gets beside the residual stream.

use super::attention::first_shared;
use super::limits::{MAX_VOCAB, MAX_WIDTH};
use super::raw::{RawConfig, RawFractions};
use crate::checkpoint::families::{Family, PerLayerNames, Profile};
use crate::checkpoint::notes::{Notes, Refusal};
use crate::mlp::Sparsity;
use serde::Serialize;

/// The gated block of one layer, and what stands beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FeedForward {
    /// Width between up and down.
    pub intermediate_size: usize,
    /// The fraction of the gate's values that are set to 0 (Gemma 3n); 0 where none are.
    pub sparsity: f64,
    /// Experts beside the block (Gemma 4 26B-A4B).
    pub experts: Option<ExpertsConfig>,
}

/// A mixture of experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ExpertsConfig {
    /// How many there are.
    pub num_experts: usize,
    /// How many a token gets.
    pub top_k: usize,
    /// Width between an expert's up and down.
    pub intermediate_size: usize,
}

/// Inputs of every layer beside the residual stream (Gemma 3n, 4, EmbeddingGemma 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PerLayerInputs {
    /// Width of a layer's.
    pub size: usize,
    /// Rows of the table that they are looked up in; `None` for projections of the embeddings alone.
    pub vocab_size: Option<usize>,
    /// Whether ids beyond the table have row 0, and factors are rounded to the model's dtype: Gemma 3n.
    pub guarded: bool,
    /// What the tensors are called.
    #[serde(skip)]
    pub names: PerLayerNames,
}

/// Several residual streams, of which one is computed and the others are predicted and corrected (AltUp, Baykal et al.
/// 2023, <https://arxiv.org/abs/2301.13310>), and a low-rank path beside attention (Laurel, Menghani et al. 2024,
/// <https://arxiv.org/abs/2411.07501>): Gemma 3n.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct AltUpConfig {
    /// How many streams there are.
    pub inputs: usize,
    /// The one that is computed.
    pub active: usize,
    /// The bound on coefficients, which transformers applies in training alone.
    pub coef_clip: f64,
    /// Whether the corrected stream is scaled before it meets the per-layer input.
    pub correct_scale: bool,
    /// Rank of the path beside attention.
    pub laurel_rank: usize,
}

/// The blocks of all layers.
pub(super) fn resolve(
    family: Family,
    raw: &RawConfig,
    layers: usize,
    notes: &mut Notes,
) -> Result<Vec<FeedForward>, Refusal> {
    let profile = family.profile();
    let sizes = sizes(family, raw, layers, notes)?;
    let sparsities = sparsities(profile, raw, layers)?;
    let first_shared = match &profile.attention {
        Ok(attention) => first_shared(attention, raw, layers, notes)?,
        Err(_) => layers,
    };
    let widens = profile.mlp.double_wide && raw.use_double_wide_mlp == Some(true);
    let experts = experts(profile, raw)?;
    if let Some(size) =
        sizes.iter().skip(first_shared).find(|&&size| widens && 2 * size > MAX_WIDTH)
    {
        return Err(Refusal::Impossible(format!(
            "intermediate_size is {size}, and layers of twice that (use_double_wide_mlp) are wider than any Gemma; the \
             limit is {MAX_WIDTH}"
        )));
    }
    let layer = |(index, (size, sparsity)): (usize, (usize, f64))| FeedForward {
        intermediate_size: if widens && index >= first_shared { 2 * size } else { size },
        sparsity,
        experts,
    };
    Ok(sizes.into_iter().zip(sparsities).enumerate().map(layer).collect())
}

/// `intermediate_size` of every layer.
fn sizes(
    family: Family,
    raw: &RawConfig,
    layers: usize,
    notes: &mut Notes,
) -> Result<Vec<usize>, Refusal> {
    let profile = family.profile();
    let listed = match raw.intermediate_size.as_deref() {
        Some([one]) => vec![*one; layers],
        None => {
            let default = profile.sizes.intermediate_size;
            vec![notes.or("intermediate_size", None, default); layers]
        }
        Some(listed) if !profile.mlp.sparsity => {
            return Err(Refusal::Impossible(format!(
                "intermediate_size lists {} sizes; all layers of {family} have one",
                listed.len()
            )));
        }
        Some(listed) => listed.to_vec(),
    };
    if listed.len() != layers {
        let reason =
            format!("intermediate_size lists {} layers; this {family} has {layers}", listed.len());
        return Err(Refusal::Impossible(reason));
    }
    let counts_both = profile.mlp.counts_gate_and_up;
    let size = |size: usize| {
        if !(1..=MAX_WIDTH).contains(&size) {
            return Err(Refusal::Impossible(format!(
                "intermediate_size is {size}; it must be 1 to {MAX_WIDTH}"
            )));
        }
        if counts_both && !size.is_multiple_of(2) {
            return Err(Refusal::Impossible(format!(
                "intermediate_size is {size}; {family}'s must be even"
            )));
        }
        Ok(if counts_both { size / 2 } else { size })
    };
    listed.into_iter().map(size).collect()
}

/// The fraction of every layer's gate that is set to 0.
fn sparsities(profile: &Profile, raw: &RawConfig, layers: usize) -> Result<Vec<f64>, Refusal> {
    /// Layers that are sparse where a config does not say it, if there are more than these, and how sparse they are
    /// (transformers' `Gemma3nTextConfig`).
    const DEFAULT: (usize, f64) = (10, 0.95);
    if !profile.mlp.sparsity {
        return Ok(vec![0.0; layers]);
    }
    let all = match &raw.activation_sparsity_pattern {
        Some(RawFractions::All(fraction)) => vec![*fraction; layers],
        Some(RawFractions::Each(fractions)) => fractions.clone(),
        None => {
            let (first, fraction) = if layers > DEFAULT.0 { DEFAULT } else { (0, 0.0) };
            (0..layers).map(|i| if i < first { fraction } else { 0.0 }).collect()
        }
    };
    if all.len() != layers {
        let reason = format!("activation_sparsity_pattern lists {} layers of {layers}", all.len());
        return Err(Refusal::Impossible(reason));
    }
    match all.iter().find(|&&fraction| fraction != 0.0 && Sparsity::new(fraction).is_err()) {
        Some(fraction) => Err(Refusal::Impossible(format!(
            "activation_sparsity_pattern has {fraction:?}; a fraction is from 0 to below 1, in f32"
        ))),
        None => Ok(all),
    }
}

fn experts(profile: &Profile, raw: &RawConfig) -> Result<Option<ExpertsConfig>, Refusal> {
    /// Experts beyond these are no Gemma's: the released one has 128.
    const MAX_EXPERTS: usize = 1 << 12;
    if !profile.mlp.experts.holds(raw.enable_moe_block) {
        return Ok(None);
    }
    let of = |name: &str, value: Option<usize>, max: usize| match value {
        Some(value) if (1..=max).contains(&value) => Ok(value),
        Some(value) => {
            Err(Refusal::Impossible(format!("{name} is {value}; it must be 1 to {max}")))
        }
        None => {
            Err(Refusal::Impossible(format!("there are experts beside the MLPs, and no {name}")))
        }
    };
    let num_experts = of("num_experts", raw.num_experts, MAX_EXPERTS)?;
    Ok(Some(ExpertsConfig {
        num_experts,
        top_k: of("top_k_experts", raw.top_k_experts, num_experts)?,
        intermediate_size: of("moe_intermediate_size", raw.moe_intermediate_size, MAX_WIDTH)?,
    }))
}

impl PerLayerInputs {
    /// What a config means; `None` where the family, or the file, has none.
    pub(super) fn resolve(
        profile: &Profile,
        raw: &RawConfig,
        layers: usize,
        notes: &mut Notes,
    ) -> Result<Option<Self>, Refusal> {
        let Some(family) = &profile.per_layer_inputs else { return Ok(None) };
        let listed = raw.hidden_size_per_layer_input;
        let size = notes.or("hidden_size_per_layer_input", listed, family.size);
        if size == 0 {
            return Ok(None);
        }
        if size.checked_mul(layers).is_none_or(|all| all > MAX_VOCAB) {
            return Err(Refusal::Impossible(format!(
                "hidden_size_per_layer_input is {size} for {layers} layers; the limit for all is {MAX_VOCAB}"
            )));
        }
        let vocab_size = match family.vocab_size {
            Some(default) => {
                let listed = raw.vocab_size_per_layer_input;
                Some(notes.or("vocab_size_per_layer_input", listed, default))
            }
            None => None,
        };
        if let Some(rows) = vocab_size.filter(|rows| !(1..=MAX_VOCAB).contains(rows)) {
            return Err(Refusal::Impossible(format!(
                "vocab_size_per_layer_input is {rows}; it must be 1 to {MAX_VOCAB}"
            )));
        }
        // Gemma 3n has a row for what is beyond.
        let vocab = raw.vocab_size.unwrap_or(profile.sizes.vocab_size);
        if let Some(rows) = vocab_size.filter(|&rows| rows < vocab && !family.guarded) {
            return Err(Refusal::Impossible(format!(
                "vocab_size_per_layer_input is {rows} and vocab_size {vocab}: ids from {rows} on have no per-layer input"
            )));
        }
        Ok(Some(Self { size, vocab_size, guarded: family.guarded, names: family.names }))
    }
}

impl AltUpConfig {
    /// What a config means; `None` where the family has one stream.
    pub(super) fn resolve(
        profile: &Profile,
        raw: &RawConfig,
        notes: &mut Notes,
    ) -> Result<Option<Self>, Refusal> {
        /// Streams beyond these are no Gemma's: the released ones have 4.
        const MAX_STREAMS: usize = 16;
        let Some(family) = &profile.altup else { return Ok(None) };
        let config = Self {
            inputs: notes.or("altup_num_inputs", raw.altup_num_inputs, family.inputs),
            active: notes.or("altup_active_idx", raw.altup_active_idx, family.active),
            coef_clip: notes.or("altup_coef_clip", raw.altup_coef_clip, family.coef_clip),
            correct_scale: notes.or(
                "altup_correct_scale",
                raw.altup_correct_scale,
                family.correct_scale,
            ),
            laurel_rank: notes.or("laurel_rank", raw.laurel_rank, family.laurel_rank),
        };
        let Self { inputs, active, laurel_rank, .. } = config;
        if !(1..=MAX_STREAMS).contains(&inputs) || active >= inputs {
            return Err(Refusal::Impossible(format!(
                "altup_num_inputs is {inputs} and altup_active_idx {active}: of at most {MAX_STREAMS} streams one is \
                 computed"
            )));
        }
        if config.coef_clip.is_nan() || config.coef_clip <= 0.0 {
            return Err(Refusal::Impossible(format!(
                "altup_coef_clip is {}; it must be positive",
                config.coef_clip
            )));
        }
        if !(1..=MAX_WIDTH).contains(&laurel_rank) {
            return Err(Refusal::Impossible(format!(
                "laurel_rank is {laurel_rank}; it must be 1 to {MAX_WIDTH}"
            )));
        }
        Ok(Some(config))
    }
}
