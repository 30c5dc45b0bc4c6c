//! The list of porting differences, on a small model of every family.

mod common;

use candle_core::{DType, Device};
use common::goldens::{checkpoint, goldens, ids};
use gemma_mlp::Activation;
use gemma_mlp_drift::drift::{DIFFERENCES, DriftOptions, Side, Sides, rank};
use std::collections::HashSet;
use std::ops::ControlFlow;

/// Families whose whole model has a head.
const FAMILIES: [&str; 5] = ["gemma", "gemma2", "gemma3", "gemma3_full", "vaultgemma"];

/// Which differences apply to a family's model, under an activation, on a text longer than its
/// windows that begins with BOS.
fn applying(family: &str, activation: Activation) -> HashSet<String> {
    let goldens = goldens("model");
    let checkpoint = checkpoint(&goldens, family, "config");
    let mut text = ids(&goldens).get(0).unwrap().to_vec1::<u32>().unwrap();
    text[0] = checkpoint.config().bos_token_id;
    let a = Side::new(activation, DType::F32);
    let options = DriftOptions::new(&checkpoint, Sides { a, b: a }).unwrap();
    let go_on = |_| ControlFlow::Continue(());
    let ranked = rank(&checkpoint, &text.into(), &options, &Device::Cpu, go_on).unwrap();
    for row in &ranked {
        assert!(row.rel_l2 > 0.0, "{family}: {row:?}");
    }
    ranked.into_iter().map(|row| row.difference.into_owned()).collect()
}

#[test]
fn every_difference_applies_somewhere() {
    let mut found = HashSet::new();
    for family in FAMILIES {
        found.extend(applying(family, Activation::TANH));
    }
    found.extend(applying("gemma3", Activation::EXACT));
    for difference in DIFFERENCES {
        assert!(found.contains(difference.name), "{} applies nowhere", difference.name);
    }
    assert_eq!(found.len(), DIFFERENCES.len());
}

/// What does not apply to a family, and why.
#[test]
fn what_a_family_does_not_have() {
    // It computes so itself.
    const OWN: &[&str] = &["GELU: tanh"];
    const NO_QK_NORM: &[&str] = &["q/k norm left out"];
    const ONE_ROPE: &[&str] =
        &["RoPE: the global base in every layer", "RoPE: the local base in every layer"];
    const NO_WINDOW: &[&str] =
        &["sliding window ignored", "sliding window one shorter", "sliding window one longer"];
    const SCALED_BY_HEAD_DIM: &[&str] = &["attention scaled by head_dim"];
    const NO_SOFTCAP: &[&str] = &["soft-caps left out"];
    let gemma = [OWN, NO_QK_NORM, ONE_ROPE, NO_WINDOW, SCALED_BY_HEAD_DIM, NO_SOFTCAP].concat();
    let gemma2 = [OWN, NO_QK_NORM, ONE_ROPE].concat();
    let gemma3 = [OWN, NO_SOFTCAP].concat();
    let gemma3_full = [OWN, ONE_ROPE, NO_WINDOW, NO_SOFTCAP].concat();
    let vaultgemma = gemma2.clone();
    for (family, lacking) in
        FAMILIES.into_iter().zip([gemma, gemma2, gemma3, gemma3_full, vaultgemma])
    {
        let applying = applying(family, Activation::TANH);
        let names = DIFFERENCES.iter().map(|difference| difference.name);
        let others: Vec<_> = names.filter(|&name| !applying.contains(name)).collect();
        assert_eq!(others, lacking, "{family}");
    }
}
