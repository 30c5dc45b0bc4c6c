//! RecurrentGemma, against transformers.

use crate::common::family::Family;
use crate::common::{rel_l2, to_f64};
use candle_core::{DType, Device, Module, Tensor};
use gemma_mlp::checkpoint::RemarkKind;
use gemma_mlp::model::{Cache, Pass, RecurrentBlock, RecurrentState, Variation};
use gemma_mlp::{Checkpoint, Gelu, Gemma};

fn recurrent() -> Family {
    Family::open("recurrent")
}

#[test]
fn it_agrees_with_transformers() {
    recurrent().agrees();
}

#[test]
fn a_text_has_its_bits_in_any_batch_and_after_a_cache() {
    // Parts shorter than the convolution, and longer than the window.
    recurrent().keeps_bits(&[1, 2, 1, 6, 1, 1, 11]);
}

#[test]
fn gradients_are_transformers_own() {
    recurrent().trains("model.");
}

/// In f64 too, which takes another way through the recurrence.
#[test]
fn a_cache_in_f64() {
    let family = recurrent();
    let (gemma, ids) = (family.load(DType::F64), family.ids());
    let whole = family.run(&gemma).logits;
    let (mut cache, mut at) = (Cache::default(), 0);
    for len in [5, 1, 1, 9, 7] {
        let logits = gemma.forward_cached(&ids.narrow(1, at, len).unwrap(), &mut cache).unwrap();
        at += len;
        assert!(rel_l2(&whole.narrow(1, at - 1, 1).unwrap(), &logits) < 1e-12);
    }
}

/// Several texts in one row: positions begin anew, and so do attention and states; convolutions see across.
#[test]
fn texts_that_begin_anew() -> candle_core::Result<()> {
    let family = recurrent();
    let positions = family.golden["restarted.positions"].to_dtype(DType::U32)?.to_vec2::<u32>()?;
    let restart = |row: &Vec<u32>| (1..row.len()).filter(|&at| row[at] == 0).collect::<Vec<_>>();
    let restarts: Vec<_> = positions.iter().map(restart).collect();
    assert_eq!(restarts, [[9], [14]]);
    for (dtype, bound) in [(DType::F64, 1e-6), (DType::F32, 2e-6)] {
        let gemma = family.load(dtype);
        let run = |pass: Pass| {
            let (mut x, mut pass) = gemma.begin(&family.ids(), pass)?;
            for layer in gemma.layers() {
                x = layer.forward(&x, &mut pass)?;
            }
            gemma.logits(&gemma.final_norm(&x)?)
        };
        let logits = run(Pass::new().with_restarts(restarts.clone()))?;
        let difference = rel_l2(&family.golden["restarted.logits"], &logits);
        assert!(difference < bound, "{dtype:?} {difference:e}");
        for wrong in [vec![vec![9]], vec![vec![0], vec![3]], vec![vec![5, 5], vec![3]]] {
            assert!(run(Pass::new().with_restarts(wrong)).is_err());
        }
        let mut cache = Cache::default();
        let error = run(Pass::with_cache(&mut cache).with_restarts(restarts.clone())).unwrap_err();
        assert!(error.to_string().contains("begin anew"), "{error}");
    }
    Ok(())
}

/// The block by itself: both forms from one recurrence, the same bits after a state, and a state of its own.
#[test]
fn the_block_by_itself() -> candle_core::Result<()> {
    let gemma = recurrent().load(DType::F32);
    let blocks: Vec<&RecurrentBlock> =
        gemma.layers().iter().filter_map(|layer| layer.recurrent()).collect();
    assert_eq!((blocks.len(), gemma.gates()), (4, 9));
    let x = Tensor::randn(0f32, 1., (2, 300, 24), &Device::Cpu)?;
    let pair = blocks[0].forward_pair(&x)?;
    for (gelu, theirs) in [(Gelu::Tanh, pair.tanh), (Gelu::Exact, pair.exact)] {
        let block = blocks[0].with_activation(gelu);
        let whole = to_f64(&block.forward(&x)?);
        assert_eq!(whole, to_f64(&theirs));
        let (mut state, mut parts, mut at) = (RecurrentState::default(), vec![], 0);
        for len in [1, 2, 257, 40] {
            parts.push(block.forward_after(&x.narrow(1, at, len)?, &mut state)?);
            at += len;
        }
        assert_eq!(to_f64(&Tensor::cat(&parts, 1)?), whole);
        let mut other_block = state.clone();
        assert!(blocks[1].forward_after(&x, &mut other_block).is_err());
        assert!(block.forward_after(&x.narrow(0, 0, 1)?, &mut state).is_err());
    }
    let none = x.narrow(1, 0, 0)?;
    assert_eq!(blocks[0].forward(&none)?.dims(), [2, 0, 24]);
    assert!(blocks[0].forward(&x.narrow(2, 0, 8)?).is_err());
    Ok(())
}

/// A backward pass goes through frozen packed weights as through tensors, and through a long text.
#[test]
fn gradients_through_frozen_weights() -> candle_core::Result<()> {
    let gemma = recurrent().load(DType::F32);
    let block = gemma.layers()[0].recurrent().unwrap();
    let x = candle_core::Var::randn(0f32, 1., (1, 3000, 24), &Device::Cpu)?;
    assert!(block.forward(&x)?.sum_all()?.backward().is_err());
    let output = block.frozen().forward(&x)?;
    assert!(rel_l2(&block.forward(&x.detach())?, &output) < 1e-5);
    let gradient = output.sum_all()?.backward()?.get(&x).unwrap().clone();
    // A numerical derivative along a direction.
    let direction = Tensor::randn(0f32, 1., x.dims(), &Device::Cpu)?;
    let at = |step: f64| {
        block.forward(&(x.detach() + (&direction * step)?)?)?.to_dtype(DType::F64)?.sum_all()
    };
    let numerical = (to_f64(&at(1e-2)?)[0] - to_f64(&at(-1e-2)?)[0]) / 2e-2;
    let analytical = to_f64(&(gradient * direction)?.to_dtype(DType::F64)?.sum_all()?)[0];
    assert!((numerical - analytical).abs() < 1e-2 * numerical.abs(), "{numerical} {analytical}");
    Ok(())
}

/// The factor on embeddings is bf16's in every dtype; without that rounding it is a mistake, whose size is known.
#[test]
fn the_embeddings_scale_is_rounded_to_bf16() {
    let family = recurrent();
    let gemma = family.load(DType::F64);
    let varied = gemma.varied(Variation::EmbeddingScaleExact).unwrap().unwrap();
    let [right, wrong] = [&gemma, &varied].map(|gemma| family.run(gemma).logits);
    let file = include_str!("goldens/families/mistakes.json");
    let mistakes: serde_json::Value = serde_json::from_str(file).unwrap();
    let known =
        mistakes["mistakes"].as_array().unwrap().iter().find(|mistake| {
            mistake["slug"] == "scale-not-rounded" && mistake["model"] == "recurrent"
        });
    let known = known.unwrap()["rel_l2"].as_f64().unwrap();
    let ours = rel_l2(&right, &wrong);
    assert!((ours - known).abs() < 0.01 * known, "{ours} {known}");
    assert!(gemma.varied(Variation::EmbeddingScaleRounded(DType::BF16)).unwrap().is_none());
}

/// What a file lacks, or has too much of, is named.
#[test]
fn every_tensor_is_checked() {
    let family = recurrent();
    // Its base and epsilon are no release's; every key and every tensor is used.
    let remarks = family.checkpoint.remarks();
    assert!(remarks.iter().all(|remark| remark.kind == RemarkKind::Unusual), "{remarks:?}");
    let dir = tempfile::tempdir().unwrap();
    let from = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/families/recurrent");
    let weights = candle_core::safetensors::load(format!("{from}/model.safetensors"), &Device::Cpu);
    let weights = weights.unwrap();
    let copy = dir.path();
    std::fs::copy(format!("{from}/config.json"), copy.join("config.json")).unwrap();
    for name in [
        "model.final_norm.weight",
        "model.layers.0.temporal_block.conv_1d.weight",
        "model.layers.1.temporal_block.rg_lru.recurrent_gate_bias",
        "model.layers.2.temporal_block.o_proj.bias",
    ] {
        let mut lacking = weights.clone();
        lacking.remove(name).unwrap();
        candle_core::safetensors::save(&lacking, copy.join("model.safetensors")).unwrap();
        let checkpoint = Checkpoint::open(copy).unwrap();
        let error = Gemma::load(&checkpoint, &Device::Cpu, DType::F32).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}
