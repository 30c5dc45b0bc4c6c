//! PaliGemma's text models, Gemma 1 and Gemma 2 behind a prompt whose tokens all see one another, against transformers.

use crate::common::family::Family;
use crate::common::{rel_l2, to_f64};
use candle_core::{DType, Device, Tensor};
use gemma_mlp::Gemma;
use gemma_mlp::checkpoint::{Checkpoint, Prefix, RemarkKind};
use gemma_mlp::model::Cache;

const NAMES: [&str; 2] = ["paligemma-gemma", "paligemma-gemma2"];

/// The goldens' prompt.
const PREFIX: usize = 5;

fn paligemma(name: &str, prefix: Prefix) -> Family {
    let mut family = Family::open(name);
    family.checkpoint = family.checkpoint.with_prefix(prefix).unwrap();
    let types = to_f64(&family.golden["token_type_ids"]);
    assert_eq!(types.iter().filter(|&&is_suffix| is_suffix == 0.0).count(), 2 * PREFIX);
    family
}

#[test]
fn it_agrees_with_transformers() {
    for name in NAMES {
        paligemma(name, Prefix::Tokens(PREFIX)).agrees();
    }
}

#[test]
fn without_a_prefix_every_token_sees_earlier_ones_only() {
    for name in NAMES {
        let family = paligemma(name, Prefix::Tokens(0));
        let logits = family.run(&family.load(DType::F64)).logits;
        assert!(rel_l2(&family.golden["causal.logits"], &logits) < 1e-6, "{name}");
    }
}

#[test]
fn a_text_has_its_bits_in_any_batch_and_after_a_cache() {
    for name in NAMES {
        paligemma(name, Prefix::Tokens(PREFIX)).keeps_bits(&[6, 1, 9, 1, 6]);
        paligemma(name, Prefix::Tokens(PREFIX)).keeps_bits(&[PREFIX, 18]);
        paligemma(name, Prefix::Tokens(0)).keeps_bits(&[1, 1, 1, 20]);
    }
}

#[test]
fn gradients_are_transformers_own() {
    for name in NAMES {
        paligemma(name, Prefix::Tokens(PREFIX)).trains("language_model.model.");
    }
}

/// Unless it is told otherwise a text is a prompt, and what is generated is not; which is said.
#[test]
fn a_text_is_a_prompt() -> candle_core::Result<()> {
    for name in NAMES {
        let family = Family::open(name);
        let said = family.checkpoint.remarks().iter().filter(|r| r.text.contains("as a prompt"));
        assert_eq!(said.count(), 1, "{:?}", family.checkpoint.remarks());
        let (all, ids) = (family.load(DType::F32), family.ids());
        assert_eq!(all.seen_ahead(), usize::MAX);
        let of = |prefix| paligemma(name, prefix).load(DType::F32);
        let whole = to_f64(&all.forward(&ids)?);
        assert_eq!(whole, to_f64(&of(Prefix::Tokens(23)).forward(&ids)?));
        // Of a shorter text it is all.
        assert_eq!(whole, to_f64(&of(Prefix::Tokens(100)).forward(&ids)?));
        assert_ne!(whole, to_f64(&of(Prefix::Tokens(22)).forward(&ids)?));
        let mut cache = Cache::default();
        all.forward_cached(&ids.narrow(1, 0, PREFIX)?, &mut cache)?;
        let rest = ids.narrow(1, PREFIX, 18)?;
        let last = all.forward_cached(&rest, &mut cache)?;
        let right = of(Prefix::Tokens(PREFIX)).forward(&ids)?;
        assert_eq!(to_f64(&last), to_f64(&right.narrow(1, 22, 1)?));
    }
    Ok(())
}

/// A cache begins with the whole prefix; a part of it is refused, in whatever way attention is computed.
#[test]
fn a_prefix_is_in_the_first_call() {
    let family = paligemma(NAMES[1], Prefix::Tokens(PREFIX));
    for dtype in [DType::F64, DType::F32] {
        let gemma = family.load(dtype);
        let part = family.ids().narrow(1, 0, PREFIX - 1).unwrap();
        let error = gemma.forward_cached(&part, &mut Cache::default()).unwrap_err().to_string();
        assert!(error.contains("4 tokens of a prefix of 5"), "{error}");
    }
}

#[test]
fn prefixes_are_told_and_refused() {
    let told = |prefix| {
        let checkpoint = paligemma(NAMES[0], prefix).checkpoint;
        let told = checkpoint.remarks().iter().filter(|r| r.kind == RemarkKind::Chosen);
        told.map(|remark| remark.text.clone()).collect::<Vec<_>>()
    };
    for (prefix, words) in [
        (Prefix::All, "as a prompt"),
        (Prefix::Tokens(0), "no tokens are read as a prompt"),
        (Prefix::Tokens(1), "the first token"),
        (Prefix::Tokens(5), "the first 5 tokens"),
    ] {
        let told = told(prefix);
        assert!(told.len() == 1 && told[0].contains(words), "{told:?}");
    }
    let gemma3 = Checkpoint::open(concat!(env!("CARGO_MANIFEST_DIR"), "/weights/tiny-gemma3"));
    let Err(error) = gemma3.unwrap().with_prefix(Prefix::All) else { panic!("it has a prefix") };
    assert!(
        error.is_input() && error.to_string().contains("Gemma 3: no part of a text"),
        "{error}"
    );
    for (text, prefix) in [("all", Ok(Prefix::All)), ("12", Ok(Prefix::Tokens(12)))] {
        assert_eq!(text.parse(), prefix);
        assert_eq!(prefix.unwrap().to_string(), text);
    }
    for text in ["", "-1", "ALL", "1.5"] {
        assert!(text.parse::<Prefix>().unwrap_err().contains("write 12, or all"));
    }
}

/// Beyond the tiles in which queries are taken, one pass is what candle's operations make.
#[test]
fn long_prefixes() -> candle_core::Result<()> {
    for name in NAMES {
        for prefix in [Prefix::All, Prefix::Tokens(300)] {
            let family = paligemma(name, prefix);
            let ids: Vec<u32> = (0..700u32).map(|i| i * 37 % 61).collect();
            let ids = Tensor::new(vec![ids], &Device::Cpu)?;
            let logits = |dtype| -> candle_core::Result<Tensor> {
                Gemma::load(&family.checkpoint, &Device::Cpu, dtype).unwrap().forward(&ids)
            };
            assert!(rel_l2(&logits(DType::F64)?, &logits(DType::F32)?) < 1e-5, "{name} {prefix}");
        }
    }
    Ok(())
}
