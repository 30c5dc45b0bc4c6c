//! Parts of a run, added up.

use super::changes::change;
use super::oracle::told;
use super::report::show;
use super::small;
use arbitrary::{Result, Unstructured};
use candle_core::{DType, Device};
use gemma_mlp::Gelu;
use gemma_mlp_drift::drift::{
    Drift, DriftOptions, Score, Shard, Side, Sides, Windowing, drift, merge as merge_parts,
};
use gemma_mlp_drift::input::Texts;
use serde_json::Value;
use std::ops::ControlFlow;
use std::sync::LazyLock;

/// Merges parts of a run, some of them changed. What is merged can be shown, and counts no position twice.
pub fn merge(data: &[u8]) {
    let _ = run(&mut Unstructured::new(data));
}

fn run(u: &mut Unstructured) -> Result<()> {
    let mut parts = vec![];
    for _ in 0..u.int_in_range(1..=4)? {
        let mut part = u.choose(&PARTS[..])?.clone();
        for _ in 0..u.int_in_range(0..=2)? {
            change(&mut part, u.choose(&PARTS[..])?, u)?;
        }
        parts.push(part);
    }
    let texts: Vec<_> =
        parts.iter().enumerate().map(|(i, part)| (format!("{i}.json"), part.to_string())).collect();
    let Some(merged) = told(merge_parts(texts)) else { return Ok(()) };
    show(&merged);
    let positions = |part: &Value| -> Option<u128> {
        let windows = part["part"]["windows"].as_array()?;
        windows.iter().map(|window| window["positions"].as_u64().map(u128::from)).sum()
    };
    let all: Option<u128> = parts.iter().map(positions).sum();
    assert_eq!(all, Some(merged.tokens as u128), "positions");
    Ok(())
}

/// The three parts of a run.
static PARTS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let checkpoint = small::checkpoint();
    let sides =
        Sides { a: Side::new(Gelu::Tanh, DType::F32), b: Side::new(Gelu::Exact, DType::F32) };
    let part = |index| {
        let mut options = DriftOptions::new(&checkpoint, sides).unwrap();
        options.windowing = Windowing { window: 4, stride: 3, score: Score::All };
        options.shard = Shard { index, of: 3 };
        let texts = Texts::from(vec![vec![2, 5, 6, 7, 8, 9, 3, 1], vec![4, 4, 4]]);
        let go_on = |_| ControlFlow::Continue(());
        let part: Drift = drift(&checkpoint, &texts, &options, &Device::Cpu, go_on).unwrap();
        serde_json::to_value(part).unwrap()
    };
    (1..=3).map(part).collect()
});
