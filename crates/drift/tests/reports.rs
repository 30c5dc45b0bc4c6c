//! Reports that are read back: whatever is written, and nothing that contradicts itself.

use candle_core::{DType, Device};
use gemma_mlp::{Checkpoint, Gelu};
use gemma_mlp_drift::drift::{
    DIFFERENCES, Drift, DriftOptions, Merger, Score, Shard, Side, Sides, Windowing, drift,
    gradient_drift, merge, rank,
};
use gemma_mlp_drift::{Error, InvalidReport};
use serde_json::{Value, json};
use std::ops::{ControlFlow, Range};

/// A run, or a part of it: 4 windows of 8 tokens.
fn measured(shard: Shard, everything: bool) -> Value {
    on(2..30, shard, everything)
}

fn on(ids: Range<u32>, shard: Shard, everything: bool) -> Value {
    let checkpoint = Checkpoint::open("weights/tiny-gemma3").unwrap();
    let [a, b] = [Gelu::Tanh, Gelu::Exact].map(|gelu| Side::new(gelu, DType::F32));
    let mut options = DriftOptions::new(&checkpoint, Sides { a, b }).unwrap();
    options.windowing = Windowing { window: 8, stride: 7, score: Score::All };
    (options.shard, options.layers) = (shard, vec![1]);
    let texts = ids.collect::<Vec<u32>>().into();
    let go_on = |_| ControlFlow::Continue(());
    let mut run = drift(&checkpoint, &texts, &options, &Device::Cpu, go_on).unwrap();
    if everything {
        let gradients = gradient_drift(&checkpoint, &texts, &options, &Device::Cpu, |_| ());
        run.gradients = Some(gradients.unwrap());
        run.ranking =
            Some(rank(&checkpoint, &texts, &options, DIFFERENCES, &Device::Cpu, go_on).unwrap());
    }
    serde_json::to_value(&run).unwrap()
}

fn part(index: usize) -> Value {
    measured(Shard { index, of: 2 }, false)
}

fn read(report: &Value) -> Value {
    let drift = Drift::from_json("report", &report.to_string());
    serde_json::to_value(drift.unwrap()).unwrap()
}

/// The places of all floating-point numbers.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Number(number) if number.is_f64() => found.push(at.to_string()),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(i, v)| places(v, &format!("{at}/{i}"), found));
        }
        Value::Object(map) => {
            map.iter().for_each(|(key, v)| places(v, &format!("{at}/{key}"), found));
        }
        _ => {}
    }
}

/// Any figure may be NaN or infinite, which is written as null: each alone, some, and all.
#[test]
fn figures_that_are_not_finite() {
    let report = measured(Shard { index: 1, of: 4 }, true);
    assert_eq!(read(&report), report);
    let mut found = vec![];
    places(&report, "", &mut found);
    for name in ["/next_probability/0", "/gates/low", "/loss/1", "/nll_a/0", "/ratio", "/dot"] {
        assert!(found.iter().any(|place| place.ends_with(name)), "{name} is among {found:?}");
    }
    let spoiled = |places: &mut dyn Iterator<Item = &String>| {
        let mut report = report.clone();
        places.for_each(|place| *report.pointer_mut(place).unwrap() = Value::Null);
        assert_eq!(read(&report), report);
    };
    // Of a list of numbers one stands for all.
    let mut alike: Vec<String> = vec![];
    for place in &found {
        let pattern: String =
            place.split('/').map(|p| if p.parse::<u32>().is_ok() { "/N" } else { p }).collect();
        if !alike.contains(&pattern) {
            alike.push(pattern);
            spoiled(&mut [place].into_iter());
        }
    }
    for step in [2, 3, 7] {
        spoiled(&mut found.iter().step_by(step));
    }
    spoiled(&mut found.iter());
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let report = part(1);
    assert!(Drift::from_json("report", &format!("\u{feff}{report}")).is_ok());
}

/// Fields that are new, and as large as can be, are passed over.
#[test]
fn what_is_not_known() {
    let mut report = part(1);
    report["more"] = json!(vec![1; 1000]);
    report["layers"][0]["more"] = json!({"a": [1, 2]});
    assert_eq!(read(&report), part(1));
    report["gradients"] = json!([]);
    let error = Drift::from_json("report", &report.to_string()).unwrap_err().to_string();
    assert!(error.contains("gradients"), "{error}");
}

fn refused(reports: &[&Value]) -> InvalidReport {
    let named = reports.iter().enumerate().map(|(i, report)| (i.to_string(), report.to_string()));
    match merge(named) {
        Err(Error::Report { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn parts_add_up() {
    let [first, second] = [part(1), part(2)];
    let whole = measured(Shard::WHOLE, false);
    for reports in [[&first, &second], [&second, &first]] {
        let named = reports.map(|report| ("part", report.to_string()));
        assert_eq!(serde_json::to_value(merge(named).unwrap()).unwrap(), whole);
    }
    let mut merger = Merger::new();
    merger.add("first", &first.to_string()).unwrap();
    assert!(!merger.finish().unwrap().complete);
    assert!(matches!(Merger::new().finish(), Err(Error::NoReports)));
    assert_eq!(refused(&[&whole]), InvalidReport::NotAPart);
}

/// Any tree over any order gives the same bytes. By induction: what is merged of some parts is what it is merged of any
/// two halves of them. One part comes in two pieces, as a killed one does.
#[test]
fn parts_in_any_order_and_tree() {
    let ids = 2..65;
    let mut whole = on(ids.clone(), Shard::WHOLE, false);
    let mut parts: Vec<_> =
        (1..=4).map(|index| on(ids.clone(), Shard { index, of: 4 }, false)).collect();
    let mut piece = parts[1].clone();
    let windows = piece["part"]["windows"].as_array_mut().unwrap();
    assert!(windows.len() > 1);
    let last = windows.pop().unwrap();
    parts[1]["part"]["windows"] = json!([last]);
    parts.push(piece);
    // Each from a machine of its own: that of the first window is named.
    for (at, part) in parts.iter_mut().enumerate() {
        part["origin"]["machine"] = json!(at.to_string());
    }
    whole["origin"]["machine"] = json!("0");
    let parts: Vec<_> = parts.iter().map(Value::to_string).collect();
    let merged = |parts: &mut dyn Iterator<Item = &String>| {
        serde_json::to_string(&merge(parts.map(|part| ("part", part))).unwrap()).unwrap()
    };
    let chosen = |set: usize| (0..parts.len()).filter(move |at| set >> at & 1 == 1);
    let all = (1 << parts.len()) - 1;
    let of: Vec<_> = (0..=all)
        .map(|set| match set {
            0 => String::new(),
            _ => merged(&mut chosen(set).map(|at| &parts[at])),
        })
        .collect();
    assert_eq!(serde_json::from_str::<Value>(&of[all]).unwrap(), whole);
    for set in 1..=all {
        assert!(
            merged(&mut chosen(set).rev().map(|at| &parts[at])) == of[set],
            "{set:b} backwards"
        );
        for left in (1..set).filter(|left| left & !set == 0) {
            let right = set & !left;
            assert!(
                merged(&mut [&of[left], &of[right]].into_iter()) == of[set],
                "{left:b} {right:b}"
            );
        }
    }
}

/// Parts that are missing or were ended early are named, and no others.
#[test]
fn parts_that_are_expected() {
    let expected = |reports: &[&Value], parts| {
        let mut merger = Merger::new();
        reports.iter().for_each(|report| merger.add("part", &report.to_string()).unwrap());
        merger.expect(parts)
    };
    let said = |reports: &[&Value], parts| expected(reports, parts).unwrap_err().to_string();
    // Of 11 windows in 4 parts, the fourth has two.
    let parts: Vec<_> = (1..=4).map(|index| on(2..79, Shard { index, of: 4 }, false)).collect();
    let [one, two, three, four] = &parts[..] else { unreachable!() };
    assert!(expected(&[four, two, three, one], 4).is_ok());
    assert!(said(&[one], 3).contains("into 4 parts, not into 3: pass --expect 4"));
    assert!(said(&[three], 4).starts_with("of 4 parts, missing: 1-2,4; run these again with"));
    assert!(said(&[four, one], 4).starts_with("of 4 parts, missing: 2-3; "));
    let ended = |part: &Value| {
        let mut part = part.clone();
        part["part"]["windows"].as_array_mut().unwrap().pop();
        part
    };
    let (two, four) = (&ended(two), &ended(four));
    let error = said(&[two, one, four], 4);
    let named =
        "missing or ended early: 2-4 (2 has 2 of its 3 windows, 4 has 1 of its 2 windows); ";
    assert!(error.contains(named), "{error}");
    assert!(said(&[one, three, four], 4).contains("early: 2,4 (4 has 1 of its 2 windows); "));
    assert!(matches!(Merger::new().expect(2), Err(Error::NoReports)));
    // Parts beyond the windows have none.
    let of = 10;
    let parts: Vec<_> = (1..=4).map(|index| measured(Shard { index, of }, false)).collect();
    let parts: Vec<_> = parts.iter().collect();
    assert!(expected(&parts, of).is_ok());
    assert!(said(&parts[..3], of).starts_with("of 10 parts, missing: 4; "));
}

/// A file that tells of very many parts is not counted through.
#[test]
fn parts_without_number() {
    let mut one = part(1);
    let of = usize::MAX >> 20;
    one["windows"] = json!(of);
    one["part"]["shard"]["of"] = json!(of);
    one["part"]["windows"].as_array_mut().unwrap().truncate(1);
    let mut merger = Merger::new();
    merger.add("part", &one.to_string()).unwrap();
    let error = merger.expect(of).unwrap_err().to_string();
    assert!(error.contains(&format!("missing: 2-{of}; ")), "{error}");
}

#[test]
fn parts_that_do_not_belong_together() {
    let [first, second] = [part(1), part(2)];
    assert_eq!(refused(&[&first, &first]), InvalidReport::Repeated { window: 0 });
    let changed = |report: &Value, change: &dyn Fn(&mut Value)| {
        let mut report = report.clone();
        change(&mut report);
        report
    };
    let other = changed(&second, &|r| r["window"] = json!(9));
    assert_eq!(refused(&[&first, &other]), InvalidReport::OtherRun { first: "0".into() });
    let empty = changed(&second, &|r| r["part"]["windows"] = json!([]));
    assert_eq!(refused(&[&first, &empty]), InvalidReport::NoWindows);
    let nothing = changed(&empty, &|r| r["windows"] = json!(0));
    assert_eq!(refused(&[&nothing]), InvalidReport::NoWindows);
    for change in ["/logits", "/layers/0/gates/counts"] {
        // In every window of a part alike, but not as in the other part.
        let odd = changed(&second, &|r| {
            for window in r["part"]["windows"].as_array_mut().unwrap() {
                let at = window.pointer_mut(change).unwrap();
                *at = if at.is_array() && change.ends_with("counts") {
                    json!([1])
                } else {
                    Value::Null
                };
            }
        });
        assert!(matches!(refused(&[&first, &odd]), InvalidReport::Inconsistent { .. }));
    }
    for (index, of) in [(0, 2), (3, 2), (9, 0), (0, 0)] {
        let odd = changed(&first, &|r| r["part"]["shard"] = json!({"index": index, "of": of}));
        assert_eq!(refused(&[&odd]), InvalidReport::NoSuchPart { index, of });
    }
    let also = changed(&first, &|r| r["part"]["also"] = json!([3]));
    assert_eq!(refused(&[&also]), InvalidReport::NoSuchPart { index: 3, of: 2 });
    let more = changed(&second, &|r| r["part"]["shard"] = json!({"index": 2, "of": 3}));
    assert!(matches!(refused(&[&more]), InvalidReport::Misplaced { .. }));
    let twice = changed(&first, &|r| {
        let window = r["part"]["windows"][0].clone();
        r["part"]["windows"].as_array_mut().unwrap().push(window);
    });
    assert_eq!(refused(&[&twice]), InvalidReport::Repeated { window: 0 });
    // Beyond the last one, another part's, and beyond any.
    for window in [4, 1, usize::MAX] {
        let far = changed(&first, &|r| r["part"]["windows"][0]["index"] = json!(window));
        let misplaced = InvalidReport::Misplaced { window, windows: 4, index: 1, of: 2 };
        assert_eq!(refused(&[&far]), misplaced);
    }
}

/// Every list and count of a window must agree with the others.
#[test]
fn windows_that_contradict_themselves() {
    let part = part(1);
    let window = |change: &dyn Fn(&mut Value)| {
        let mut report = part.clone();
        change(&mut report["part"]["windows"][1]);
        match refused(&[&report]) {
            InvalidReport::Inconsistent { window: 2, what } => what,
            other => panic!("{other:?}"),
        }
    };
    let most = usize::MAX;
    for positions in [8, 9, 1 << 40, most] {
        window(&|w| w["positions"] = json!(positions));
    }
    for positions in [0, 6, 8, most] {
        window(&|w| w["floor_positions"] = json!(positions));
    }
    window(&|w| w["notable"]["worst"][0]["position"] = json!(most));
    window(&|w| w["layers"] = json!([]));
    window(&|w| w["logits"] = Value::Null);
    for count in [most, most / 2] {
        window(&|w| w["layers"][0]["drift"][1]["count"] = json!(count));
        window(&|w| w["layers"][0]["floor_residual"]["count"] = json!(count));
        window(&|w| w["logits"][2]["logits"]["count"] = json!(count));
        window(&|w| w["layers"][0]["gates"]["counts"][64] = json!(count));
        window(&|w| w["layers"][0]["gates"]["above"] = json!(count));
    }
    window(&|w| w["layers"][0]["gates"]["counts"] = json!([1]));
    window(&|w| w["layers"][0]["gates"]["step"] = json!(1.0));
    for list in ["kl_nats", "top1", "top5", "nll_a", "nll_b"] {
        for pair in 0..3 {
            window(&|w| drop(w["logits"][pair][list].as_array_mut().unwrap().pop()));
            window(&|w| {
                let list = w["logits"][pair][list].as_array_mut().unwrap();
                list.push(list[0].clone());
            });
        }
    }
}
