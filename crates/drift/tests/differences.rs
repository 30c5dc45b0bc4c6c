//! The list of porting differences, on a small model of every family.

use crate::common::goldens::{checkpoint, goldens, ids};
use candle_core::{DType, Device};
use gemma_mlp::checkpoint::Mixture;
use gemma_mlp::{Activation, Checkpoint};
use gemma_mlp_drift::drift::{DIFFERENCES, DriftOptions, Ranked, Side, Sides, rank};
use gemma_mlp_drift::input::Texts;
use std::collections::HashSet;
use std::ops::ControlFlow;

/// A model's differences under an activation and in a dtype, on a text longer than its windows that begins with BOS.
fn ranked(checkpoint: &Checkpoint, activation: Activation, dtype: DType) -> Vec<Ranked> {
    let goldens = goldens("model");
    let mut text = ids(&goldens).get(0).unwrap().to_vec1::<u32>().unwrap();
    let vocab = checkpoint.config().stacks[0].vocab_size as u32;
    text.iter_mut().for_each(|id| *id %= vocab);
    text[0] = checkpoint.config().bos_token_id;
    let a = Side::new(activation, dtype);
    let options = DriftOptions::new(checkpoint, Sides { a, b: a }).unwrap();
    let go_on = |_| ControlFlow::Continue(());
    // An encoder reads the same.
    let texts = match checkpoint.config().stacks.len() {
        1 => text.into(),
        _ => Texts::from(text.clone()).with_sources(text.into()).unwrap(),
    };
    rank(checkpoint, &texts, &options, DIFFERENCES, &Device::Cpu, go_on).unwrap()
}

fn names(ranked: Vec<Ranked>) -> HashSet<String> {
    ranked.into_iter().map(|row| row.difference.into_owned()).collect()
}

/// One of the families up to Gemma 3.
fn earlier(family: &str) -> Checkpoint {
    checkpoint(&goldens("model"), family, "config")
}

/// One of today's.
fn today(name: &str) -> Checkpoint {
    let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/families");
    Checkpoint::open(format!("{goldens}/{name}")).unwrap()
}

/// What every model can have that computes tanh in f32.
const ANY: &[&str] = &[
    "GELU: exact (erf)",
    "GELU: SiLU in its place",
    "GELU: x*sigmoid(1.702x)",
    "embedding scale rounded to bf16",
    "embedding not scaled",
    "norm: output rounded to bf16",
    "norm: Llama's order of rounding to bf16",
    "norm: all in bf16",
    "norm: squares in bf16",
    "RoPE: cosine and sine rounded to bf16",
    "RoPE: inverse frequencies rounded to bf16",
    "RoPE: all in bf16, positions too",
    "attention: softmax in bf16",
    "no BOS",
    "yardstick: the whole model in bf16",
    "yardstick: the whole model in f64",
];
const QUANTISED: &[&str] = &[
    "yardstick: weights in Q8_0",
    "yardstick: weights in Q6_K",
    "yardstick: weights in Q5_K_M",
    "yardstick: weights in Q4_K_M",
    "yardstick: weights in Q4_0",
];
const ONE_PLUS: &[&str] = &["norm: w in place of 1+w", "norm: 1+w rounded to bf16"];
const PLAIN: &[&str] = &["norm: 1+w in place of w"];
const POST_NORMS: &[&str] = &["norm: pre-MLP weight behind attention"];
const QK_NORM: &[&str] = &["q/k norm left out"];
const V_NORM: &[&str] = &["v norm left out"];
const KEYS_AS_VALUES: &[&str] = &["v taken behind k norm"];
const SHARED: &[&str] = &["k/v sharing ignored"];
const TWO_BASES: &[&str] =
    &["RoPE: the global base in every layer", "RoPE: the local base in every layer"];
const FACTOR: &[&str] = &["RoPE: scaling factor left out"];
const PROPORTIONAL: &[&str] = &[
    "RoPE: partial in place of proportional",
    "RoPE: proportional, pairs of first dims",
    "RoPE: proportional, exponents of the part",
    "RoPE: proportional, whole head turned",
];
const WINDOWS: &[&str] =
    &["sliding window ignored", "sliding window one shorter", "sliding window one longer"];
const SCALED_OTHERWISE: &[&str] = &["attention scaled by head_dim"];
const SOFTCAPS: &[&str] = &["soft-caps left out"];
const LAYER_SCALAR: &[&str] = &["layer_scalar left out"];
const PER_LAYER: &[&str] = &[
    "per-layer inputs left out",
    "per-layer inputs: rows not scaled",
    "per-layer inputs: sum not scaled",
];
const EXPERTS: &[&str] = &[
    "experts: router gets the normed input",
    "experts: norms behind exchanged",
    "experts: per_expert_scale left out",
    "experts: weights not renormalised",
];
const SPARSE: &[&str] = &["sparsity left out", "sparsity: deviation by n-1"];
const SPARSE_OTHERWISE: &[&str] = &["sparsity: first ten layers"];
const CLIPPED: &[&str] = &["AltUp: coefficients clipped"];
const STREAMS: &[&str] = &[
    "per-layer inputs: in every stream",
    "AltUp: coefficients transposed",
    "Laurel from the stream, not its norm",
];

/// Each changes something wherever it applies, and no other applies.
#[test]
fn what_each_family_can_have() {
    let gemma2 = [ANY, ONE_PLUS, WINDOWS, SCALED_OTHERWISE, SOFTCAPS].concat();
    let gemma3 = [ANY, ONE_PLUS, POST_NORMS, QK_NORM, SCALED_OTHERWISE, FACTOR].concat();
    let later = [ANY, PLAIN, POST_NORMS, QK_NORM, V_NORM, TWO_BASES, WINDOWS].concat();
    let later = [&later[..], SCALED_OTHERWISE, SOFTCAPS].concat();
    let gemma4 = [&later[..], LAYER_SCALAR, PROPORTIONAL].concat();
    let gemma3n = [&later[..], PER_LAYER, STREAMS].concat();
    for (name, checkpoint, expected) in [
        ("gemma", earlier("gemma"), [ANY, ONE_PLUS].concat()),
        ("gemma2", earlier("gemma2"), [&gemma2[..], POST_NORMS].concat()),
        ("vaultgemma", earlier("vaultgemma"), gemma2),
        ("gemma3", earlier("gemma3"), [&gemma3[..], TWO_BASES, WINDOWS].concat()),
        ("gemma3, full", earlier("gemma3_full"), gemma3),
        ("dense", today("gemma4-dense"), [&gemma4[..], KEYS_AS_VALUES].concat()),
        ("proportional", today("gemma4-proportional"), [&gemma4[..], FACTOR].concat()),
        ("moe", today("gemma4-moe"), [&gemma4[..], KEYS_AS_VALUES, EXPERTS].concat()),
        ("e4b", today("gemma4-e4b"), [&gemma4[..], SHARED, PER_LAYER].concat()),
        // Sparse as the releases are.
        ("3n a", today("gemma3n-a"), [&gemma3n[..], SHARED, SPARSE, CLIPPED].concat()),
        ("3n b", today("gemma3n-b"), [&gemma3n[..], SPARSE, SPARSE_OTHERWISE].concat()),
        ("3n c", today("gemma3n-c"), [&gemma3n[..], SHARED, FACTOR, SPARSE_OTHERWISE].concat()),
    ] {
        let rows = ranked(&checkpoint, Activation::TANH, DType::F32);
        assert!(rows.is_sorted_by(|a, b| a.kl_mean_nats >= b.kl_mean_nats), "{name}");
        assert!(rows.iter().all(|row| row.rel_l2 > 0.0), "{name}: {rows:?}");
        let quantised = checkpoint.quantised(Mixture::Q4_0).unwrap();
        let has_blocks = quantised.tensors().entries().any(|(.., storage)| storage.is_quantised());
        let yardsticks = if has_blocks { QUANTISED } else { &[] };
        let expected = expected.into_iter().chain(yardsticks.iter().copied());
        let (found, expected) = (names(rows), expected.map(String::from).collect());
        let differ: Vec<_> = found.symmetric_difference(&expected).collect();
        assert!(differ.is_empty(), "{name}: {differ:?}");
    }
}

/// Some take another activation, another dtype, or a family of its own.
#[test]
fn every_difference_applies_somewhere() {
    let mut found = HashSet::new();
    for (checkpoint, activation, dtype) in [
        (earlier("gemma3"), Activation::EXACT, DType::F32),
        (earlier("gemma3"), Activation::TANH, DType::F32),
        (today("gemma4-moe"), Activation::TANH, DType::F32),
        (today("gemma4-e4b"), Activation::TANH, DType::F32),
        (today("gemma3n-a"), Activation::TANH, DType::BF16),
        (today("gemma3n-b"), Activation::TANH, DType::F32),
        (today("recurrent"), Activation::TANH, DType::F32),
        (today("t5gemma2-even"), Activation::TANH, DType::F32),
    ] {
        found.extend(names(ranked(&checkpoint, activation, dtype)));
    }
    for difference in DIFFERENCES {
        assert!(found.contains(difference.name), "{} applies nowhere", difference.name);
    }
    assert_eq!(found.len(), DIFFERENCES.len());
}
