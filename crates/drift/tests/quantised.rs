//! Sides whose weights are quantised.

use candle_core::{DType, Device, Tensor};
use gemma_mlp::checkpoint::Mixture;
use gemma_mlp::{Checkpoint, Gelu, Gemma};
use gemma_mlp_drift::drift::{
    DIFFERENCES, DriftOptions, Lockstep, Ranked, Score, Shard, Side, Sides, Windowing, rank,
};
use gemma_mlp_drift::input::Texts;
use std::ops::ControlFlow;

fn quantised(mixture: Mixture, dtype: DType) -> Side {
    Side { weights: Some(mixture), ..Side::new(Gelu::Tanh, dtype) }
}

fn ids() -> Vec<u32> {
    std::iter::once(2).chain((0..60).map(|i| 3 + i * 37 % 900)).collect()
}

fn numbers(x: &Tensor) -> Vec<f32> {
    x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Each side has the weights that it says, whatever runs beside it.
#[test]
fn sides_beside_one_another_are_sides_alone() {
    let checkpoint = Checkpoint::open("weights/tiny-gemma3").unwrap();
    let sides = [
        Side::new(Gelu::Tanh, DType::F32),
        quantised(Mixture::Q4KM, DType::F32),
        Side::new(Gelu::Exact, DType::F32),
        quantised(Mixture::Q4KM, DType::BF16),
        quantised(Mixture::Q8_0, DType::F32),
    ];
    let lockstep = Lockstep::load(&checkpoint, &sides, &Device::Cpu).unwrap();
    assert!(lockstep.share(0, 2) && !lockstep.share(0, 1) && !lockstep.share(1, 4));
    let ids = Tensor::new(vec![ids()], &Device::Cpu).unwrap();
    let together = lockstep.run(None, &ids, &[61; 5], |_, _, _| Ok(())).unwrap();
    let mut all: Vec<Vec<f32>> = vec![];
    for (side, hidden) in sides.iter().zip(together) {
        let own = side.weights.map(|mixture| checkpoint.quantised(mixture).unwrap());
        let own = own.as_ref().unwrap_or(&checkpoint);
        let alone = Gemma::load(own, &Device::Cpu, side.dtype).unwrap();
        let alone = alone.with_activation(side.activation).hidden(&ids, &mut ()).unwrap();
        assert!(numbers(&alone) == numbers(&hidden), "{side}");
        all.push(numbers(&hidden));
    }
    assert!((1..5).all(|other| all[other] != all[0]));
}

/// Inputs are rounded for weights in blocks, on one side of two.
#[test]
fn activations_are_rounded_for_quantised_weights() {
    let checkpoint = Checkpoint::open("weights/tiny-gemma3").unwrap();
    let plain = quantised(Mixture::Q4KM, DType::F32);
    let rounding = Side { q8_activations: true, ..plain };
    let lockstep = Lockstep::load(&checkpoint, &[rounding, plain], &Device::Cpu).unwrap();
    let ids = Tensor::new(vec![ids()], &Device::Cpu).unwrap();
    let together = lockstep.run(None, &ids, &[61; 2], |_, _, _| Ok(())).unwrap();
    let own = checkpoint.quantised(Mixture::Q4KM).unwrap();
    let alone = Gemma::load(&own, &Device::Cpu, DType::F32).unwrap();
    assert!(numbers(&alone.hidden(&ids, &mut ()).unwrap()) == numbers(&together[1]));
    let (alone, _) = alone.with_inputs_as_stored(&own).unwrap();
    assert!(numbers(&alone.hidden(&ids, &mut ()).unwrap()) == numbers(&together[0]));
    assert!(numbers(&together[0]) != numbers(&together[1]));
    let unquantised = Side { weights: None, ..rounding };
    let refused = Lockstep::load(&checkpoint, &[unquantised], &Device::Cpu).err().unwrap();
    assert!(refused.is_input() && refused.to_string().contains("8 bits"), "{refused}");
}

#[test]
fn fewer_bits_move_the_logits_further() {
    let checkpoint = Checkpoint::open("weights/tiny-gemma3").unwrap();
    let side = Side::new(Gelu::Tanh, DType::F32);
    let options = DriftOptions {
        sides: Sides { a: side, b: Side::new(Gelu::Exact, DType::F32) },
        floor_sides: Sides::floor(side, DType::BF16).unwrap(),
        layers: vec![0],
        floor_tokens: 64,
        windowing: Windowing { window: 64, stride: 64, score: Score::All },
        shard: Shard::WHOLE,
        windows_at_once: 1,
    };
    let texts = Texts::from(vec![ids()]);
    let rank = |checkpoint: &Checkpoint| -> Vec<Ranked> {
        let known = DIFFERENCES.iter().filter(|known| known.name.contains("weights in Q"));
        let go_on = |_| ControlFlow::Continue(());
        rank(checkpoint, &texts, &options, known, &Device::Cpu, go_on).unwrap()
    };
    let ranked = rank(&checkpoint);
    let names: Vec<_> =
        ranked.iter().map(|row| row.difference.replace("yardstick: ", "")).collect();
    let all = ["Q4_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"].map(|name| format!("weights in {name}"));
    assert_eq!(names, all);
    // What is quantised already is not quantised once more.
    assert!(rank(&checkpoint.quantised(Mixture::Q8_0).unwrap()).is_empty());
    let refused = Lockstep::load(
        &checkpoint.quantised(Mixture::Q8_0).unwrap(),
        &[quantised(Mixture::Q4_0, DType::F32)],
        &Device::Cpu,
    );
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("is in Q8_0 already"), "{refused}");
}
