//! Saved reports, and all that is shown of them.

use super::changes::change;
use super::oracle::told;
use super::small;
use arbitrary::{Result, Unstructured};
use candle_core::{DType, Device};
use gemma_mlp::Gelu;
use gemma_mlp_cli::report::{Paint, Run, drift_csv, drift_page, drift_table, json};
use gemma_mlp_drift::drift::{
    Drift, DriftOptions, Score, Side, Sides, Windowing, drift, gradient_drift,
};
use gemma_mlp_drift::input::Texts;
use serde_json::Value;
use std::ops::ControlFlow;
use std::sync::LazyLock;

/// Reads a report, given as text or as changes of a good one, and shows it in every way. What is read is written, and
/// read again as the same.
pub fn report(data: &[u8]) {
    let Some((&how, rest)) = data.split_first() else { return };
    let json = match how % 2 {
        0 => String::from_utf8(rest.to_vec()).ok(),
        _ => changed(&mut Unstructured::new(rest)).ok(),
    };
    let Some(json) = json else { return };
    if let Some(drift) = told(Drift::from_json("report.json", &json)) {
        show(&drift);
    }
}

fn changed(u: &mut Unstructured) -> Result<String> {
    let mut report = GOOD.clone();
    for _ in 0..u.int_in_range(1..=4)? {
        change(&mut report, &GOOD, u)?;
    }
    Ok(report.to_string())
}

/// What a run writes.
static GOOD: LazyLock<Value> = LazyLock::new(|| {
    let checkpoint = small::checkpoint();
    let sides =
        Sides { a: Side::new(Gelu::Tanh, DType::F32), b: Side::new(Gelu::Exact, DType::F32) };
    let mut options = DriftOptions::new(&checkpoint, sides).unwrap();
    options.windowing = Windowing { window: 6, stride: 4, score: Score::All };
    let texts = Texts::from(vec![vec![2, 5, 6, 7, 8, 9, 3, 1], vec![4, 4, 4]]);
    let go_on = |_| ControlFlow::Continue(());
    let mut report = drift(&checkpoint, &texts, &options, &Device::Cpu, go_on).unwrap();
    report.gradients =
        Some(gradient_drift(&checkpoint, &texts, &options, &Device::Cpu, |_| ()).unwrap());
    serde_json::to_value(report).unwrap()
});

/// Every view of a report, and its JSON.
pub fn show(drift: &Drift) {
    for paint in [Paint::Plain, Paint::Ansi] {
        drift_table(drift, paint);
    }
    // Beside another one now and then: a page takes a hundred times as long as the rest.
    let runs = [Run { name: "a", drift }, Run { name: "b", drift }];
    let runs = &runs[..if drift.tokens.is_multiple_of(8) { 2 } else { 1 }];
    assert!(drift_page(runs).starts_with("<!DOCTYPE html>"));
    drift_csv(runs).expect("a table in memory");
    let written = json(drift).expect("a report is JSON");
    let read = Drift::from_json("again", &written).expect("what is written is read");
    assert_eq!(json(&read).expect("a report is JSON"), written);
}
