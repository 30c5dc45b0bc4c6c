//! Options that make sense in any order, and those that do not make sense at all.

use candle_core::{DType, Device};
use gemma_mlp::{Checkpoint, Gelu};
use gemma_mlp_drift::drift::{
    Drift, DriftOptions, Progress, Shard, Side, Sides, Windowing, drift, gradient_drift, rank,
};
use gemma_mlp_drift::{Error, Result};
use std::ops::ControlFlow;

fn checkpoint() -> Checkpoint {
    Checkpoint::open("weights/tiny-gemma3").unwrap()
}

fn options(checkpoint: &Checkpoint) -> DriftOptions {
    let [a, b] = [Gelu::Tanh, Gelu::Exact].map(|gelu| Side::new(gelu, DType::F32));
    DriftOptions::new(checkpoint, Sides { a, b }).unwrap()
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn measured(texts: &[Vec<u32>], change: impl Fn(&mut DriftOptions)) -> Result<Drift> {
    let checkpoint = checkpoint();
    let mut options = options(&checkpoint);
    change(&mut options);
    drift(&checkpoint, texts, &options, &Device::Cpu, go_on)
}

#[test]
fn layers_in_any_order() {
    let text = [vec![2, 5, 6, 7]];
    let all = measured(&text, |_| ()).unwrap();
    let some = measured(&text, |options| options.layers = vec![3, 1, 1]).unwrap();
    assert_eq!(some.layers.iter().map(|layer| layer.index).collect::<Vec<_>>(), [1, 3]);
    for layer in &some.layers {
        assert_eq!(layer.drift, all.layers[layer.index].drift);
    }
    assert!(measured(&text, |options| options.layers = vec![]).unwrap().layers.is_empty());
}

#[test]
fn what_cannot_be_measured_is_an_error() {
    let text = [vec![2, 5, 6, 7]];
    let error =
        |texts: &[_], change: &dyn Fn(&mut DriftOptions)| measured(texts, change).unwrap_err();
    for index in [0, 1, 2] {
        let none = |options: &mut DriftOptions| options.shard = Shard { index, of: 0 };
        assert!(matches!(error(&text, &none), Error::EmptyShard { of: 0, windows: 1, .. }));
    }
    let window =
        |window, stride| error(&text, &|options| options.windowing = Windowing { window, stride });
    assert!(matches!(window(1, 1), Error::InvalidWindow { window: 1, .. }));
    assert!(matches!(window(8, 0), Error::InvalidWindow { stride: 0, .. }));
    assert!(matches!(error(&text, &|options| options.layers = vec![4]), Error::Model(_)));
    assert!(matches!(error(&[vec![1024]], &|_| ()), Error::OutOfVocabulary { id: 1024, .. }));
    for texts in [&[][..], &[vec![]], &[vec![], vec![]]] {
        assert!(matches!(error(texts, &|_| ()), Error::NoText));
    }
    assert!(matches!(error(&text, &|options| options.floor_tokens = 0), Error::NoFloorTokens));
    let wide = Side::new(Gelu::Tanh, DType::F32);
    assert!(matches!(Sides::floor(wide, DType::F64), Err(Error::NoFloor(DType::F64))));
}

#[test]
fn texts_too_short_for_a_loss_or_a_ranking() {
    let checkpoint = checkpoint();
    let options = options(&checkpoint);
    let loss =
        |texts: &[Vec<u32>]| gradient_drift(&checkpoint, texts, &options, &Device::Cpu, |_| ());
    assert!(matches!(loss(&[vec![2]]), Err(Error::NoLoss)));
    assert!(matches!(loss(&[]), Err(Error::NoText)));
    assert!(matches!(rank(&checkpoint, &[], &options, &Device::Cpu, go_on), Err(Error::NoText)));
}
