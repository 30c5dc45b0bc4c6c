//! Windows, strides, parts and layers of a run.

use super::oracle::told;
use super::small;
use arbitrary::{Result, Unstructured};
use candle_core::{DType, Device};
use gemma_mlp::{Checkpoint, Gelu};
use gemma_mlp_drift::drift::{
    Drift, DriftOptions, Progress, Score, Shard, Side, Sides, Windowing, drift, merge,
};
use gemma_mlp_drift::input::Texts;
use std::ops::ControlFlow;
use std::sync::LazyLock;

/// Measures a small model with arbitrary options. Every position counts once, and the parts of a run add up to it.
pub fn windows(data: &[u8]) {
    let _ = run(&mut Unstructured::new(data));
}

static SMALL: LazyLock<Checkpoint> = LazyLock::new(small::checkpoint);

fn run(u: &mut Unstructured) -> Result<()> {
    let checkpoint = &*SMALL;
    let number = |u: &mut Unstructured| -> Result<usize> {
        match u.ratio(1, 16)? {
            true => u.arbitrary(),
            false => u.int_in_range(0..=9),
        }
    };
    let sides =
        Sides { a: Side::new(Gelu::Tanh, DType::F32), b: Side::new(Gelu::Exact, DType::F32) };
    let mut options = DriftOptions::new(checkpoint, sides).unwrap();
    let score = *u.choose(&[Score::All, Score::SecondHalf])?;
    let (window, stride) = (number(u)?, number(u)?);
    options.windowing = Windowing { window, stride, score };
    options.floor_tokens = number(u)?;
    if u.ratio(1, 2)? {
        options.shard = Shard { index: number(u)?, of: number(u)? };
    }
    if u.ratio(1, 4)? {
        options.layers = (0..u.int_in_range(0..=3)?).map(|_| number(u)).collect::<Result<_>>()?;
    }
    let mut texts = vec![];
    for _ in 0..u.int_in_range(0..=2)? {
        let id = |_| u.int_in_range(0..=16u32);
        texts.push((0..8).map(id).collect::<Result<Vec<_>>>()?);
        let len = u.int_in_range(0..=8)?;
        texts.last_mut().unwrap().truncate(len);
    }
    let texts = Texts::from(texts);
    let whole = options.shard == Shard::WHOLE;
    let mut progress = 0.0;
    let watch = |Progress { tokens, of, .. }: Progress| {
        assert!(tokens >= progress && tokens <= of as f64 + 1e-6, "{progress}, {tokens} of {of}");
        progress = tokens;
        ControlFlow::Continue(())
    };
    let Some(report) = told(drift(checkpoint, &texts, &options, &Device::Cpu, watch)) else {
        return Ok(());
    };
    assert_eq!(report.complete, whole || report.header.windows == 1);
    let all: usize = texts.iter().map(<[u32]>::len).sum();
    if whole && score == Score::All {
        assert_eq!(report.tokens, all);
    }
    assert!((1..=all).contains(&report.tokens));
    if whole && report.header.windows > 1 {
        let of = u.int_in_range(2..=report.header.windows.min(4))?;
        let part = |index| {
            let options = DriftOptions { shard: Shard { index, of }, ..options.clone() };
            let go_on = |_| ControlFlow::Continue(());
            let part = drift(checkpoint, &texts, &options, &Device::Cpu, go_on).expect("a part");
            (format!("{index}"), serde_json::to_string(&part).unwrap())
        };
        let merged = merge((1..=of).rev().map(part)).expect("parts of a run");
        assert_eq!(figures(merged), figures(report));
    }
    Ok(())
}

/// A report as JSON.
fn figures(report: Drift) -> serde_json::Value {
    serde_json::to_value(report).unwrap()
}
