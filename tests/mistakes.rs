//! Mistakes in porting today's families, as variations of a right model, against the same put into transformers.

use crate::common::family::Family;
use crate::common::{rel_l2, to_f64};
use candle_core::{D, DType, Device, Tensor};
use gemma_mlp::checkpoint::Prefix;
use gemma_mlp::model::{NormRounding, PartialRope, Variation};
use gemma_mlp::{Activation, Checkpoint, Gemma};
use serde::Deserialize;
use std::collections::HashMap;
use std::str::FromStr;

/// What a mistake changes of a model in transformers.
#[derive(Deserialize)]
struct Recorded {
    slug: String,
    model: String,
    dtype: String,
    rel_l2: f64,
    kl_mean_nats: f64,
    kl_max_nats: f64,
}

#[derive(Deserialize)]
struct Recordings {
    mistakes: Vec<Recorded>,
}

/// Mistakes of encoder-decoders, which are no [`Gemma`], and those models, on which the exact GELU was tried too.
const OF_OTHERS: &[&str] = &["cross-keys-rotated", "encoder-window-symmetric"];
const OTHERS: &[&str] = &["t5gemma2-odd", "t5gemma2-even", "t5gemma"];

fn variation(slug: &str) -> Option<Variation> {
    use Variation as V;
    Some(match slug {
        "norm-1-plus-w" => V::NormWithOne,
        "attention-head-dim" => V::ScaledByHeadDim,
        "no-layer-scalar" => V::LayerScalarLeftOut,
        "rope-first-dims" => V::PartialRope(PartialRope::FirstNumbers),
        "rope-rotated-denominator" => V::PartialRope(PartialRope::ExponentsOverPart),
        "rope-whole-head" => V::PartialRope(PartialRope::WholeHead),
        "router-normed" => V::RouterNormed,
        "post-norms-exchanged" => V::ExpertNormsExchanged,
        "kv-sharing-ignored" => V::KeysNotShared,
        "v-after-k-norm" => V::ValuesAfterKeyNorm,
        "no-v-norm" => V::ValueNormLeftOut,
        "no-ple" => V::PerLayerInputsLeftOut,
        "ple-unscaled" => V::PerLayerRowsNotScaled,
        "ple-no-root" => V::PerLayerSumNotScaled,
        "pre-ffn-norm-as-post-attention" => V::MlpNormBehindAttention,
        "no-sparsity" => V::SparsityLeftOut,
        "sparsity-n-minus-1" => V::SparsityBySample,
        "sparsity-everywhere" => V::SparsityOfReleases,
        "altup-clipped" => V::AltUpClipped,
        "altup-f32" => V::AltUpWide,
        "altup-transposed" => V::AltUpTransposed,
        "ple-all-streams" => V::PerLayerInputsInEveryStream,
        "laurel-unnormed" => V::LaurelNotNormed,
        "no-final-softcap" => V::SoftcapsLeftOut,
        "no-per-expert-scale" => V::ExpertScaleLeftOut,
        "top-k-not-renormalised" => V::ExpertsNotRenormalised,
        "norm-squares-bf16" => V::NormRounding(NormRounding::Squares(DType::BF16)),
        "softmax-bf16" => V::SoftmaxRounded(DType::BF16),
        "norm-bf16" => V::NormRounding(NormRounding::EveryOp(DType::BF16)),
        "linear-rope-ignored" => V::RopeFactorLeftOut,
        "scale-not-rounded" => V::EmbeddingScaleExact,
        "exact-gelu" => V::Activation(Activation::EXACT),
        _ => return None,
    })
}

/// The tokens of PaliGemma's prompts.
const PROMPT: usize = 5;

fn kls(right: &Tensor, wrong: &Tensor) -> Vec<f64> {
    let log = |logits: &Tensor| {
        let logits = logits.to_dtype(DType::F64).unwrap();
        candle_nn::ops::log_softmax(&logits, D::Minus1).unwrap()
    };
    let (right, wrong) = (log(right), log(wrong));
    let kl = (right.exp().unwrap() * (right - wrong).unwrap()).unwrap();
    to_f64(&kl.sum(D::Minus1).unwrap())
}

/// A model, and what it was tried on.
struct Tried {
    gemma: Gemma,
    ids: Tensor,
    /// Our logits.
    right: Tensor,
    /// transformers' logits, in f64.
    golden: Tensor,
}

impl Tried {
    fn load(name: &str, dtype: DType) -> Self {
        let mut family = Family::open(name);
        if name.starts_with("paligemma") {
            let prefix = Prefix::Tokens(PROMPT);
            family.checkpoint = family.checkpoint.with_prefix(prefix).unwrap();
        }
        let (gemma, ids) = (family.load(dtype), family.ids());
        let right = gemma.forward(&ids).unwrap();
        Self { gemma, ids, right, golden: family.golden.remove("logits").unwrap() }
    }

    /// What is wrong with what a variation changes.
    fn check(&self, variation: Variation, row: &Recorded) -> Result<(), String> {
        let Some(varied) = self.gemma.varied(variation).unwrap() else {
            return Err("it does not apply".into());
        };
        let wrong = varied.forward(&self.ids).unwrap();
        let all = kls(&self.right, &wrong);
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        let max = all.into_iter().fold(0.0, f64::max);
        let ours = [rel_l2(&self.right, &wrong), mean, max];
        let theirs = [row.rel_l2, row.kl_mean_nats, row.kl_max_nats];
        let bound = match &row.dtype[..] {
            // Both round everywhere, in other places: what is left is the size.
            "bf16" => 10.0,
            _ => 1.005,
        };
        let fits = |(ours, theirs): (f64, f64)| (1.0 / bound..bound).contains(&(ours / theirs));
        if !ours.into_iter().zip(theirs).all(fits) {
            return Err(format!("{ours:?}, and in transformers {theirs:?}"));
        }
        // What a right model is held to.
        match rel_l2(&self.golden, &wrong) > 1e-5 {
            true => Ok(()),
            false => Err("the golden logits would not show it".into()),
        }
    }
}

fn recordings() -> Vec<Recorded> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/families/mistakes.json");
    let recordings = std::fs::read_to_string(path).unwrap();
    let Recordings { mistakes } = serde_json::from_str(&recordings).unwrap();
    let is_ours =
        |row: &Recorded| !OF_OTHERS.contains(&&row.slug[..]) && !OTHERS.contains(&&row.model[..]);
    mistakes.into_iter().filter(is_ours).collect()
}

#[test]
fn a_mistake_changes_what_it_changes_in_transformers() {
    let rows = recordings();
    assert_eq!(rows.len(), 87);
    let mut models: HashMap<(&str, &str), Tried> = HashMap::new();
    for row in &rows {
        let Recorded { slug, model, dtype, .. } = row;
        let variation = variation(slug).unwrap_or_else(|| panic!("no variation for {slug}"));
        let dtype_of = || DType::from_str(dtype).unwrap();
        let on = models.entry((model, dtype)).or_insert_with(|| Tried::load(model, dtype_of()));
        on.check(variation, row).unwrap_or_else(|why| panic!("{slug} on {model}: {why}"));
    }
}

/// In one pass over packed weights, too, but for what rounds: there a last bit makes it another number.
#[test]
fn a_mistake_is_the_same_in_f32() {
    let mut models: HashMap<String, [Tried; 2]> = HashMap::new();
    for row in recordings() {
        if row.dtype != "f64" || row.slug.ends_with("-bf16") {
            continue;
        }
        let load = || [DType::F64, DType::F32].map(|dtype| Tried::load(&row.model, dtype));
        let both = models.entry(row.model.clone()).or_insert_with(load);
        let [wide, narrow] = both.each_ref().map(|tried| {
            let varied = tried.gemma.varied(variation(&row.slug).unwrap()).unwrap().unwrap();
            varied.forward(&tried.ids).unwrap()
        });
        let difference = rel_l2(&wide, &narrow);
        assert!(
            difference < 1e-3 * row.rel_l2.max(0.1),
            "{} {}: {difference:e}",
            row.slug,
            row.model
        );
    }
}

/// Keys and values that the file has for layers which share those of others are asked for by one mistake alone.
#[test]
fn keys_that_are_not_in_the_file_cannot_be_taken() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/families/gemma4-e4b");
    let weights = format!("{path}/model.safetensors");
    let weights = candle_core::safetensors::load(weights, &Device::Cpu).unwrap();
    let last = |name: &str| name.ends_with("layers.5.self_attn.v_proj.weight");
    let without: HashMap<_, _> = weights
        .iter()
        .filter(|(name, _)| !last(name))
        .map(|(n, t)| (n.clone(), t.clone()))
        .collect();
    let mut narrower = weights.clone();
    let (_, values) = narrower.iter_mut().find(|(name, _)| last(name)).unwrap();
    *values = values.narrow(0, 0, 16).unwrap();
    for (weights, applies) in [(weights, true), (without, false), (narrower, false)] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(format!("{path}/config.json"), dir.path().join("config.json")).unwrap();
        candle_core::safetensors::save(&weights, dir.path().join("model.safetensors")).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        let gemma = Gemma::load(&checkpoint, &Device::Cpu, DType::F32).unwrap();
        assert_eq!(gemma.varied(Variation::KeysNotShared).unwrap().is_some(), applies);
    }
}
