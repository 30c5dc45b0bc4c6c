//! A GGUF file's metadata as a config in transformers' terms, and the reason for whatever it leaves out.
//!
//! Metadata has no names for some of a config: those follow from which tensors there are and from their shapes, from the
//! released model of these sizes, or from the family, as in llama.cpp, which has them in its code.

use super::header::Info;
use super::metadata::{Metadata, Number, Numbers};
use super::sparsity;
use crate::checkpoint::config::limits::MAX_LAYERS;
use crate::checkpoint::families::{Family, Scaling};
use crate::checkpoint::remark::{Names, Remark, RemarkKind};
use crate::checkpoint::tensors::{File, Storage};
use crate::error::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

/// An architecture of llama.cpp's that is a Gemma.
pub(super) struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    /// transformers' `model_type` of its text.
    model_type: &'static str,
    /// Whether norms are stored as what they multiply by, `1 + w`, and not as `w`.
    pub(super) one_plus: bool,
    /// Whether positions see both sides.
    bidirectional: bool,
}

const ARCHITECTURES: &[Architecture] = &[
    Architecture::new("gemma", "gemma").one_plus(),
    Architecture::new("gemma2", "gemma2").one_plus(),
    Architecture::new("gemma3", "gemma3_text").one_plus(),
    Architecture {
        bidirectional: true,
        ..Architecture::new("gemma-embedding", "gemma3_text").one_plus()
    },
    Architecture::new("gemma3n", "gemma3n_text"),
    Architecture::new("gemma4", "gemma4_text"),
    // Not covered, which is said by their model type.
    Architecture::new("gemma4-assistant", "gemma4_assistant"),
];

impl Architecture {
    const fn new(name: &'static str, model_type: &'static str) -> Self {
        Self { name, model_type, one_plus: false, bidirectional: false }
    }

    const fn one_plus(self) -> Self {
        Self { one_plus: true, ..self }
    }

    /// That of a file.
    ///
    /// # Errors
    /// One that is no Gemma, or not covered.
    pub(super) fn of(metadata: &Metadata, path: &Path) -> Result<&'static Self> {
        let key = "general.architecture";
        let Some(name) = metadata.text(key)? else {
            return Err(metadata.invalid(key, "is missing"));
        };
        let unsupported = |reason| Error::UnsupportedModel { path: path.into(), reason };
        let own = ARCHITECTURES.iter().find(|own| own.name == name);
        let own = own.ok_or_else(|| {
            let names: Vec<_> = ARCHITECTURES
                .iter()
                .map(|own| own.name)
                .filter(|name| !name.ends_with("assistant"))
                .collect();
            let reason = match &name[..] {
                "clip" | "mmproj" => {
                    "it is the part of a model that sees; pass the file of its text".into()
                }
                _ => format!(
                    "general.architecture \"{name}\" is not covered: {} are",
                    names.join(", ")
                ),
            };
            unsupported(reason)
        })?;
        Family::covers(own.model_type).map_err(unsupported)?;
        Ok(own)
    }

    /// The family of its text.
    pub(super) fn family(&self) -> Result<Family, String> {
        Family::detect(self.model_type, None).map(|(family, _)| family)
    }
}

/// The factors on rotary frequencies, which say what part of a head is rotated.
pub(super) const FACTORS: &str = "rope_freqs.weight";

/// Whether a family's config is made of these.
pub(super) fn reads_factors(family: Family) -> bool {
    family.profile().attention.as_ref().is_ok_and(|own| own.proportional.is_some())
}

/// What a config is made of.
pub(super) struct Source<'a> {
    pub(super) architecture: &'a Architecture,
    pub(super) family: Family,
    pub(super) metadata: &'a Metadata,
    /// The tensors of all parts, by the names that files have for them.
    pub(super) tensors: &'a [(Arc<File>, Info)],
}

/// A config's text, and what there is to say of how it was made.
pub(super) struct Made {
    pub(super) json: String,
    pub(super) remarks: Vec<Remark>,
}

/// Keys of an architecture that say nothing more, by how they end: repeated by others, or of no bearing on a text.
const HARMLESS: &[&str] = &[
    "attention.value_length",
    "attention.value_length_swa",
    "dense_2_feat_in",
    "dense_2_feat_out",
    "dense_3_feat_in",
    "dense_3_feat_out",
    "pooling_type",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "suppress_tokens",
    "vocab_size",
];

/// Makes the config.
///
/// # Errors
/// Values of other types, or that no layer could have. What is missing, or cannot be, is for the config's own reader.
pub(super) fn config(source: &Source) -> Result<Made> {
    let names = source.tensors.iter().enumerate().map(|(at, (_, info))| (info.name.as_str(), at));
    let by_name = names.collect();
    let (config, read, remarks) = (Map::new(), HashSet::new(), vec![]);
    let mut making = Making { source, config, by_name, read, remarks };
    making.sizes()?;
    making.attention()?;
    making.rope()?;
    making.feed_forward()?;
    making.per_layer()?;
    making.tokens()?;
    making.unread();
    Ok(Made { json: Value::Object(making.config).to_string(), remarks: making.remarks })
}

struct Making<'a> {
    source: &'a Source<'a>,
    config: Map<String, Value>,
    /// Where each tensor is in the source.
    by_name: HashMap<&'a str, usize>,
    /// The keys that were asked for.
    read: HashSet<String>,
    remarks: Vec<Remark>,
}

impl Making<'_> {
    fn key(&mut self, name: &str) -> String {
        let key = format!("{}.{name}", self.source.architecture.name);
        self.read.insert(key.clone());
        key
    }

    fn whole(&mut self, name: &str) -> Result<Option<usize>> {
        let key = self.key(name);
        let whole = self.source.metadata.whole(&key)?;
        whole
            .map(|whole| usize::try_from(whole).map_err(|_| self.invalid(name, "is too large")))
            .transpose()
    }

    fn float(&mut self, name: &str) -> Result<Option<f64>> {
        let key = self.key(name);
        self.source.metadata.float(&key)
    }

    /// One number for all layers, or one for each.
    fn layers(&mut self, name: &str) -> Result<Option<Vec<usize>>> {
        let key = self.key(name);
        let numbers = match self.source.metadata.numbers(&key)? {
            None => return Ok(None),
            Some(Numbers::One(number)) => vec![number],
            Some(Numbers::Each(numbers)) => numbers,
        };
        let whole = |number| match number {
            Number::Whole(whole) => usize::try_from(whole).ok(),
            _ => None,
        };
        let wholes: Option<Vec<_>> = numbers.into_iter().map(whole).collect();
        wholes.map(Some).ok_or_else(|| self.invalid(name, "has what is no whole number"))
    }

    fn invalid(&self, name: &str, reason: &str) -> Error {
        let key = format!("{}.{name}", self.source.architecture.name);
        self.source.metadata.invalid(&key, reason)
    }

    fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.config.insert(name.into(), value.into());
    }

    fn set_if(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }

    fn get(&self, name: &str) -> Option<usize> {
        self.config.get(name)?.as_u64()?.try_into().ok()
    }

    /// How many layers there are, or as many as are read: more are refused by the config's reader.
    fn count(&self) -> usize {
        self.get("num_hidden_layers").unwrap_or_default().min(MAX_LAYERS)
    }

    fn note(&mut self, text: String) {
        self.remarks.push(Remark::note(RemarkKind::Chosen, text));
    }

    fn tensor(&self, name: &str) -> Option<&(Arc<File>, Info)> {
        self.by_name.get(name).map(|&at| &self.source.tensors[at])
    }

    fn rows(&self, name: &str) -> Option<usize> {
        self.tensor(name)?.1.shape.first().copied()
    }

    /// Whether the family's configs have a key.
    fn has(&self, key: &str) -> bool {
        !self.source.family.profile().ignores(key)
    }

    fn sizes(&mut self) -> Result<()> {
        self.set("model_type", self.source.architecture.model_type);
        for (name, key) in [
            ("num_hidden_layers", "block_count"),
            ("hidden_size", "embedding_length"),
            ("max_position_embeddings", "context_length"),
            ("num_attention_heads", "attention.head_count"),
        ] {
            let value = self.whole(key)?;
            self.set_if(name, value);
        }
        for (name, key) in
            [("num_hidden_layers", "block_count"), ("hidden_size", "embedding_length")]
        {
            if self.get(name).is_none() {
                return Err(self.invalid(key, "is missing"));
            }
        }
        let eps = self.float("attention.layer_norm_rms_epsilon")?;
        self.set_if("rms_norm_eps", eps);
        self.set_if("vocab_size", self.rows("token_embd.weight"));
        if self.tensor("output.weight").is_some() {
            self.set("tie_word_embeddings", false);
        }
        for name in ["final_logit_softcapping", "attn_logit_softcapping"] {
            match self.float(name)? {
                None => {}
                // As llama.cpp has it.
                Some(0.0) => self.set(name, Value::Null),
                Some(cap) => self.set(name, cap),
            }
        }
        Ok(())
    }

    fn attention(&mut self) -> Result<()> {
        let layers = self.count();
        let wide = self.whole("attention.key_length")?;
        self.same("attention.value_length", wide)?;
        let mut head_dim = wide;
        let own_heads = self.has("global_head_dim");
        if own_heads {
            head_dim = self.whole("attention.key_length_swa")?;
            self.same("attention.value_length_swa", head_dim)?;
        }
        self.set_if("head_dim", head_dim);
        let sliding = self.sliding(layers)?;
        let full = |layer: &usize| sliding.get(*layer) == Some(&false);
        let heads = self.layers("attention.head_count_kv")?.unwrap_or_default();
        if heads.len() > 1 && heads.len() != layers {
            let reason = format!("lists {} of {layers} layers", heads.len());
            return Err(self.invalid("attention.head_count_kv", &reason));
        }
        let of_layer = |layer: usize| heads.get(layer).or(heads.first()).copied();
        let first = sliding.iter().position(|&slides| slides).unwrap_or(0);
        let kv_heads = of_layer(first);
        self.set_if("num_key_value_heads", kv_heads);
        if own_heads {
            let own = (0..layers).filter(full).map(|layer| {
                let own = json!({"head_dim": wide, "num_key_value_heads": of_layer(layer)});
                (layer.to_string(), own)
            });
            self.set("per_layer_config", own.collect::<Map<_, _>>());
        } else if heads.iter().any(|own| Some(*own) != kv_heads) {
            let reason = "differs between layers, which no such Gemma's does";
            return Err(self.invalid("attention.head_count_kv", reason));
        }
        let mut last = layers;
        if self.has("num_kv_shared_layers") {
            let shared = self.whole("attention.shared_kv_layers")?;
            self.set_if("num_kv_shared_layers", shared);
            last = layers.saturating_sub(shared.unwrap_or(0));
        }
        if self.has("attention_k_eq_v") {
            let has =
                |layer, part| self.tensor(&format!("blk.{layer}.attn_{part}.weight")).is_some();
            let lacking = (0..last).filter(full).any(|layer| has(layer, "k") && !has(layer, "v"));
            self.set("attention_k_eq_v", lacking);
        }
        let key = self.key("attention.causal");
        let causal = self.source.metadata.flag(&key)?;
        if self.source.architecture.bidirectional || causal == Some(false) {
            let both = if own_heads { json!("all") } else { json!(true) };
            self.set("use_bidirectional_attention", both);
        }
        self.scaling(head_dim);
        Ok(())
    }

    /// Refuses a width of values that is not that of keys.
    fn same(&mut self, name: &str, keys: Option<usize>) -> Result<()> {
        match self.whole(name)? {
            Some(values) if Some(values) != keys => {
                let reason =
                    format!("is {values}, and that of keys another; every Gemma's are alike");
                Err(self.invalid(name, &reason))
            }
            _ => Ok(()),
        }
    }

    /// How wide the window of layers is that slide, and which of them do, where the file lists it.
    fn sliding(&mut self, layers: usize) -> Result<Vec<bool>> {
        if !self.has("sliding_window") {
            return Ok(vec![]);
        }
        let window = self.whole("attention.sliding_window")?;
        match window {
            // llama.cpp's Gemma 2 slides in any case; its later ones do not.
            None | Some(0) if self.has("attn_logit_softcapping") => {}
            None | Some(0) => self.set("sliding_window", Value::Null),
            Some(window) => self.set("sliding_window", window),
        }
        let key = self.key("attention.sliding_window_pattern");
        let numbers = self.source.metadata.numbers(&key)?;
        let invalid = |reason: &str| self.source.metadata.invalid(&key, reason);
        match numbers {
            // Its layers' heads depend on it.
            None if self.has("global_head_dim") => Err(invalid("is missing")),
            None => Ok(vec![]),
            Some(Numbers::One(Number::Whole(every))) if self.has("sliding_window_pattern") => {
                let every = u64::try_from(every).map_err(|_| invalid("is negative"))?;
                self.set("sliding_window_pattern", every);
                Ok(vec![])
            }
            Some(Numbers::One(_)) => Err(invalid("must list which layers slide")),
            Some(Numbers::Each(all)) => {
                let slides = all.iter().map(|slides| match slides {
                    Number::Flag(slides) => Some(*slides),
                    Number::Whole(slides @ 0..=1) => Some(*slides == 1),
                    _ => None,
                });
                let slides: Option<Vec<bool>> = slides.collect();
                let slides = slides.filter(|slides| slides.len() == layers);
                let reason = format!("must say true or false of each of {layers} layers");
                let slides = slides.ok_or_else(|| invalid(&reason))?;
                let name = |&slides| if slides { "sliding_attention" } else { "full_attention" };
                let types = slides.iter().map(name);
                self.set("layer_types", types.collect::<Vec<_>>());
                Ok(slides)
            }
        }
    }

    /// The factor on attention's scores, which no file has.
    fn scaling(&mut self, head_dim: Option<usize>) {
        let Ok(attention) = &self.source.family.profile().attention else { return };
        let (Scaling::Scalar(_), Some(head_dim)) = (attention.scaling, head_dim) else { return };
        let intermediate = self
            .source
            .metadata
            .numbers(&format!("{}.feed_forward_length", self.source.architecture.name));
        let intermediate = match intermediate {
            Ok(Some(Numbers::One(Number::Whole(whole)))) => usize::try_from(whole).ok(),
            _ => None,
        };
        let shape = [self.get("hidden_size"), intermediate, self.get("num_hidden_layers")];
        let release = match shape {
            [Some(hidden), Some(intermediate), Some(layers)] => {
                Family::release_of([hidden, intermediate, layers])
            }
            _ => None,
        };
        let own = release.filter(|(family, _)| *family == self.source.family);
        let (scalar, why) = match own {
            Some((_, own)) => (own.scalar, format!("that of {}, which has these sizes", own.name)),
            None => {
                let why = "the width of a head, as llama.cpp takes it, which every released Gemma has but those of 27B";
                (head_dim as f64, why.into())
            }
        };
        self.set("query_pre_attn_scalar", scalar);
        self.note(format!(
            "GGUF has no query_pre_attn_scalar, by whose root attention's scores are divided: it is {scalar}, {why}"
        ));
    }

    fn rope(&mut self) -> Result<()> {
        let base = self.float("rope.freq_base")?;
        self.set_if("rope_theta", base);
        if self.has("rope_local_base_freq") {
            let sliding = self.float("rope.freq_base_swa")?;
            self.set_if("rope_local_base_freq", sliding);
        }
        let key = self.key("rope.scaling.type");
        let kind = self.source.metadata.text(&key)?;
        let factor = self.float("rope.scaling.factor")?;
        let linear = self.float("rope.scale_linear")?;
        match (kind.as_deref(), factor.or(linear)) {
            (None, Some(factor)) if factor != 1.0 => {
                self.set("rope_scaling", json!({"rope_type": "linear", "factor": factor}));
            }
            (None | Some("none"), _) => {}
            (Some(kind), factor) => {
                self.set("rope_scaling", json!({"rope_type": kind, "factor": factor}))
            }
        }
        for (name, of) in [
            ("rope.dimension_count", "attention.key_length"),
            ("rope.dimension_count_swa", "attention.key_length_swa"),
        ] {
            let (rotated, width) = (self.whole(name)?, self.whole(of)?);
            if let (Some(rotated), Some(width)) = (rotated, width)
                && rotated != width
            {
                return Err(self.invalid(
                    name,
                    &format!("is {rotated} of heads of {width}; only whole heads are rotated here"),
                ));
            }
        }
        self.proportional()
    }

    /// What part of a head full attention rotates (Gemma 4).
    fn proportional(&mut self) -> Result<()> {
        if !reads_factors(self.source.family) {
            return Ok(());
        }
        let Some((file, info)) = self.tensor(FACTORS) else {
            let text = "the file has no rope_freqs.weight, which says what part of a head full attention rotates: it is \
                        the family's";
            self.note(text.into());
            return Ok(());
        };
        let (pairs, all) = rotated_pairs(file, info)?;
        if let Some(width) = self.whole("attention.key_length")?.filter(|width| *width != 2 * all) {
            let reason = format!(
                "is {width}, and rope_freqs.weight has {all} factors, not one for each pair"
            );
            return Err(self.invalid("attention.key_length", &reason));
        }
        // A config has it as a fraction of which whole pairs are taken.
        let part = pairs as f64 / all as f64;
        let part = if ((part * all as f64) as usize) < pairs { part.next_up() } else { part };
        let full = json!({"rope_type": "proportional", "partial_rotary_factor": part});
        self.set("rope_parameters", json!({"full_attention": full}));
        Ok(())
    }

    fn feed_forward(&mut self) -> Result<()> {
        let sizes = self.layers("feed_forward_length")?.unwrap_or_default();
        let layers = self.count();
        let first_shared = layers.saturating_sub(self.get("num_kv_shared_layers").unwrap_or(0));
        match &sizes[..] {
            [] => return Err(self.invalid("feed_forward_length", "is missing")),
            [first, rest @ ..] if rest.iter().all(|size| size == first) => {
                let size = *first;
                self.set("intermediate_size", size);
            }
            [first, ..]
                if self.has("use_double_wide_mlp")
                    && sizes.len() == layers
                    && sizes.iter().enumerate().all(|(layer, &size)| {
                        Some(size)
                            == if layer < first_shared {
                                Some(*first)
                            } else {
                                first.checked_mul(2)
                            }
                    }) =>
            {
                let size = *first;
                self.set("intermediate_size", size);
                self.set("use_double_wide_mlp", true);
            }
            _ => self.set("intermediate_size", sizes),
        }
        self.experts()?;
        self.sparsity()
    }

    fn experts(&mut self) -> Result<()> {
        if !self.has("enable_moe_block") {
            return Ok(());
        }
        let (experts, used) = (self.whole("expert_count")?, self.whole("expert_used_count")?);
        let width = self.layers("expert_feed_forward_length")?;
        if let Some(experts) = experts.filter(|&experts| experts > 0) {
            let width = match width.as_deref() {
                Some([first, rest @ ..]) if rest.iter().all(|width| width == first) => *first,
                _ => return Err(self.invalid("expert_feed_forward_length", "must be one size")),
            };
            self.set("enable_moe_block", true);
            self.set("num_experts", experts);
            self.set_if("top_k_experts", used);
            self.set("moe_intermediate_size", width);
        }
        Ok(())
    }

    fn sparsity(&mut self) -> Result<()> {
        if !self.has("activation_sparsity_pattern") {
            return Ok(());
        }
        let key = self.key("activation_sparsity_scale");
        if let Some(Numbers::Each(scales)) = self.source.metadata.numbers(&key)? {
            let scale = |number: &Number| match number {
                Number::Float(float) => Some(*float as f32),
                _ => None,
            };
            let fractions: Option<Vec<f64>> =
                scales.iter().map(|s| sparsity::fraction(scale(s)?)).collect();
            let fractions = fractions.ok_or_else(|| {
                self.source.metadata.invalid(
                    &key,
                    "has what no fraction of a normal distribution has for its quantile",
                )
            })?;
            self.set("activation_sparsity_pattern", fractions);
        }
        Ok(())
    }

    /// Gemma 3n's and 4's inputs of every layer, and Gemma 3n's streams.
    fn per_layer(&mut self) -> Result<()> {
        if !self.has("hidden_size_per_layer_input") {
            return Ok(());
        }
        let size = self.whole("embedding_length_per_layer_input")?;
        self.set_if("hidden_size_per_layer_input", size);
        let rows = self.rows("per_layer_token_embd.weight");
        self.set_if("vocab_size_per_layer_input", rows);
        if !self.has("altup_num_inputs") {
            return Ok(());
        }
        let (inputs, active) = (self.whole("altup.num_inputs")?, self.whole("altup.active_idx")?);
        self.set_if("altup_num_inputs", inputs);
        self.set_if("altup_active_idx", active);
        self.set_if("laurel_rank", self.rows("blk.0.laurel_l.weight"));
        if rows.is_some() && rows == self.get("vocab_size") {
            self.note(
                "the converter fills the table of per-layer inputs with rows of zeros up to the vocabulary's size: ids \
                 of images and sounds have these, and not those of id 0 as in transformers"
                    .into(),
            );
        }
        Ok(())
    }

    fn tokens(&mut self) -> Result<()> {
        let metadata = self.source.metadata;
        let id = |name: &str| metadata.whole(&format!("tokenizer.ggml.{name}_token_id"));
        let bos = id("bos")?;
        let mut ends: Vec<u64> = [id("eos")?, id("eot")?].into_iter().flatten().collect();
        ends.dedup();
        self.set_if("bos_token_id", bos);
        if !ends.is_empty() {
            self.set("eos_token_id", ends);
        }
        Ok(())
    }

    /// What of the architecture's keys nobody asked for.
    fn unread(&mut self) {
        let prefix = format!("{}.", self.source.architecture.name);
        let unread = self.source.metadata.keys().filter(|key| {
            let rest = key.strip_prefix(&prefix);
            rest.is_some_and(|rest| !HARMLESS.contains(&rest)) && !self.read.contains(*key)
        });
        let unread: Names = unread.collect();
        if unread.count > 0 {
            let text = format!("the metadata has {unread}, which is not known here and not used");
            self.remarks.push(Remark::warning(RemarkKind::Unused, text));
        }
    }
}

/// How many pairs of a head full attention rotates, and of how many: the factors on their frequencies are 1, and
/// those of the others beyond any angle.
fn rotated_pairs(file: &Arc<File>, info: &Info) -> Result<(usize, usize)> {
    let invalid = |reason: &str| Error::Gguf {
        path: file.path().into(),
        reason: format!("tensor 'rope_freqs.weight' {reason}"),
    };
    let (Storage::Numbers(safetensors::Dtype::F32), &[pairs @ 1..=4096]) =
        (info.storage, &info.shape[..])
    else {
        return Err(invalid("must be a row of at most 4096 F32"));
    };
    let mut bytes = vec![0; pairs * size_of::<f32>()];
    file.fill(info.place[0] as u64, &mut bytes)?;
    let (factors, _) = bytes.as_chunks();
    let factors: Vec<f32> = factors.iter().map(|&factor| f32::from_le_bytes(factor)).collect();
    let rotated = factors.iter().take_while(|&&factor| factor == 1.0).count();
    match factors[rotated..].iter().all(|&factor| factor >= 1e30) {
        true => Ok((rotated, pairs)),
        false => Err(invalid(
            "has other factors than 1, for what is rotated, and 1e30 behind them, for what is not",
        )),
    }
}
