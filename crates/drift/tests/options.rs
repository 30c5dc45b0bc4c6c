//! Options that make sense in any order, and those that do not make sense at all.

use candle_core::{DType, Device};
use gemma_mlp::{Checkpoint, Gelu};
use gemma_mlp_drift::drift::{
    DIFFERENCES, Drift, DriftOptions, Progress, Score, Shard, Side, Sides, Windowing, drift,
    gradient_drift, rank,
};
use gemma_mlp_drift::input::Texts;
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
    drift(&checkpoint, &texts.iter().collect(), &options, &Device::Cpu, go_on)
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
    let window = |window, stride| {
        error(&text, &|options| options.windowing = Windowing { window, stride, score: Score::All })
    };
    assert!(matches!(window(1, 1), Error::InvalidWindow { window: 1, .. }));
    assert!(matches!(window(8, 0), Error::InvalidWindow { stride: 0, .. }));
    assert!(matches!(error(&text, &|options| options.layers = vec![4]), Error::Model(_)));
    assert!(matches!(error(&[vec![1024]], &|_| ()), Error::OutOfVocabulary { id: 1024, .. }));
    assert!(matches!(error(&[], &|_| ()), Error::NoText));
    assert!(matches!(error(&[vec![], vec![2]], &|_| ()), Error::EmptyText { index: 0 }));
    assert!(matches!(error(&[vec![2], vec![]], &|_| ()), Error::EmptyText { index: 1 }));
    assert!(matches!(error(&text, &|options| options.layers = vec![]), Error::NoLayers));
    let floor = |options: &mut DriftOptions| options.floor_tokens = 0;
    assert!(matches!(error(&text, &floor), Error::NoFloorTokens { floor_tokens: 0 }));
    // Of 4 tokens the third alone is scored by halves.
    let halves = |floor_tokens| {
        move |options: &mut DriftOptions| {
            options.windowing = Windowing { window: 4, stride: 4, score: Score::SecondHalf };
            options.floor_tokens = floor_tokens;
        }
    };
    assert!(matches!(error(&text, &halves(2)), Error::NoFloorTokens { floor_tokens: 2 }));
    let scored = measured(&text, halves(3)).unwrap();
    assert_eq!((scored.tokens, scored.floor.tokens), (1, 1));
    let wide = Side::new(Gelu::Tanh, DType::F32);
    assert!(matches!(Sides::floor(wide, DType::F64), Err(Error::NoFloor(DType::F64))));
}

/// As many floor tokens, or as long a window, as can be written: no sum overflows, and the floor has
/// the positions that there are.
#[test]
fn the_largest_numbers() {
    let texts: Vec<Vec<u32>> = [40, 9].map(|len| (2..2 + len).collect()).to_vec();
    for floor_tokens in [1, 12, 512, usize::MAX] {
        let drift = measured(&texts, |options| {
            options.floor_tokens = floor_tokens;
            options.windowing = Windowing { window: usize::MAX, stride: 1, score: Score::All };
        });
        let on = |len: usize| len.min(floor_tokens);
        assert_eq!(drift.unwrap().floor.tokens, on(40) + on(9));
    }
    let drift = measured(&texts, |options| {
        options.windowing = Windowing { window: 2048, stride: 1, score: Score::All };
    });
    assert_eq!(drift.unwrap().tokens, 49);
}

/// Scored by halves, the figures are those of all positions that are scored.
#[test]
fn second_halves() {
    let text: Vec<u32> = (2..25).collect();
    let windowing = |score| Windowing { window: 8, stride: 8, score };
    let by_halves = measured(std::slice::from_ref(&text), |options| {
        options.windowing = windowing(Score::SecondHalf)
    });
    let by_halves = by_halves.unwrap();
    let mut kl = vec![];
    for chunk in text.chunks_exact(8) {
        let read = [&[2][..], &chunk[1..]].concat();
        let all = measured(&[read], |options| options.windowing = windowing(Score::All)).unwrap();
        kl.extend_from_slice(&all.positions.unwrap().kl_mean_nats[4..7]);
    }
    assert_eq!(by_halves.positions.unwrap().kl_mean_nats, kl);
    assert_eq!((by_halves.tokens, by_halves.header.windows), (6, 2));
    assert_eq!(by_halves.logits.unwrap().kl_mean_nats, kl.iter().sum::<f64>() / 6.0);
    let remarks: Vec<_> = by_halves.header.remarks.iter().map(|remark| &remark.text[..]).collect();
    assert!(remarks.iter().any(|text| text.starts_with("the last 7 tokens")), "{remarks:?}");
}

#[test]
fn texts_too_short_for_a_loss_or_a_ranking() {
    let checkpoint = checkpoint();
    let options = options(&checkpoint);
    let loss = |texts: Texts| gradient_drift(&checkpoint, &texts, &options, &Device::Cpu, |_| ());
    let none = Texts::default();
    assert!(matches!(loss(vec![2].into()), Err(Error::NoLoss)));
    assert!(matches!(loss(none.clone()), Err(Error::NoText)));
    assert!(matches!(
        rank(&checkpoint, &none, &options, DIFFERENCES, &Device::Cpu, go_on),
        Err(Error::NoText)
    ));
}
