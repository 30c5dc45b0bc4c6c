//! The JSON report is what docs/drift.schema.json says, no more and no less.

mod common;

use common::{gemma3_config, gemma3_specs, write_checkpoint};
use gemma_mlp_cli::report;
use gemma_mlp_drift::drift::{Drift, SCHEMA};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// As much of JSON Schema as the file uses. An unknown word is a failure, so that none is passed over.
fn check(schema: &Value, root: &Value, value: &Value, at: &str) -> Result<(), String> {
    let fail = |why: &str| Err(format!("{at}: {why}: {value}"));
    for (word, rule) in schema.as_object().ok_or("a schema is an object")? {
        match word.as_str() {
            "$schema" | "title" | "description" | "$defs" => {}
            "$ref" => {
                let path = rule.as_str().unwrap().strip_prefix('#').unwrap();
                check(root.pointer(path).ok_or(format!("no {path}"))?, root, value, at)?;
            }
            "anyOf" => {
                let all: Vec<_> =
                    rule.as_array().unwrap().iter().map(|s| check(s, root, value, at)).collect();
                if all.iter().all(Result::is_err) {
                    return all.into_iter().next().unwrap();
                }
            }
            "const" if rule != value => return fail("another constant"),
            "enum" if !rule.as_array().unwrap().contains(value) => return fail("not listed"),
            "const" | "enum" => {}
            "type" => {
                let of = |name: &str| match name {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    "null" => value.is_null(),
                    _ => panic!("type {name}"),
                };
                let names = rule.as_array().cloned().unwrap_or(vec![rule.clone()]);
                if !names.iter().any(|name| of(name.as_str().unwrap())) {
                    return fail(&format!("not of type {rule}"));
                }
            }
            "minimum" if value.as_f64().is_some_and(|v| v < rule.as_f64().unwrap()) => {
                return fail("too small");
            }
            "minItems"
                if value.as_array().is_some_and(|a| a.len() < rule.as_u64().unwrap() as usize) =>
            {
                return fail("too short");
            }
            "maxItems"
                if value.as_array().is_some_and(|a| a.len() > rule.as_u64().unwrap() as usize) =>
            {
                return fail("too long");
            }
            "minimum" | "minItems" | "maxItems" => {}
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(rule, root, item, &format!("{at}[{i}]"))?;
                }
            }
            "properties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    if let Some(schema) = rule.get(name) {
                        check(schema, root, value, &format!("{at}.{name}"))?;
                    }
                }
            }
            "required" => {
                for name in rule.as_array().unwrap() {
                    if value.get(name.as_str().unwrap()).is_none() {
                        return fail(&format!("{name} is missing"));
                    }
                }
            }
            "additionalProperties" => {
                for name in value.as_object().into_iter().flat_map(|o| o.keys()) {
                    if schema["properties"].get(name).is_none() {
                        return fail(&format!("{name} is not documented"));
                    }
                }
            }
            word => panic!("the test knows no '{word}'"),
        }
    }
    Ok(())
}

fn schema() -> Value {
    serde_json::from_str(include_str!("../docs/drift.schema.json")).unwrap()
}

fn drift(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_gemma-mlp"))
        .args(["drift", "--json"])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A checkpoint of another family, whose blocks run alone: no logits, gaussian input.
fn without_logits(dir: &Path) -> String {
    let mut config = gemma3_config();
    config["model_type"] = "recurrent_gemma".into();
    config["intermediate_size"] = 24.into();
    let rename = |name: &str| {
        name.replace(".mlp.", ".mlp_block.")
            .replace("pre_feedforward_layernorm", "channel_pre_norm")
    };
    let mut specs: Vec<_> = gemma3_specs("model.")
        .into_iter()
        .map(|spec| common::Spec { name: rename(&spec.name), ..spec })
        .collect();
    for (name, rows) in [("gate_proj", 12), ("up_proj", 12), ("down_proj", 8)] {
        specs.push(common::Spec::f32(format!("model.layers.0.mlp_block.{name}.bias"), &[rows]));
    }
    write_checkpoint(dir, &config, &specs);
    let ids = dir.join("ids.json");
    std::fs::write(&ids, "[1, 2, 3]").unwrap();
    drift(&["--model", dir.to_str().unwrap(), "--ids", ids.to_str().unwrap()])
}

#[test]
fn reports_are_as_documented() {
    let dir = tempfile::tempdir().unwrap();
    let schema = schema();
    let all = drift(&["--gradients", "--rank", "--b", "silu"]);
    for (name, report) in [
        ("the default", drift(&[])),
        ("everything", all.clone()),
        ("a part", drift(&["--window", "32", "--shard", "1/3"])),
        ("without logits", without_logits(dir.path())),
    ] {
        let value: Value = serde_json::from_str(&report).unwrap();
        check(&schema, &schema, &value, name).unwrap();
        // What is read is what was written, to the last digit.
        let read = Drift::from_json(name, &report).unwrap();
        assert_eq!(report::json(&read).unwrap(), report, "{name}");
    }
    // Everything that is documented occurs somewhere.
    let everything: Value = serde_json::from_str(&all).unwrap();
    for name in schema["properties"].as_object().unwrap().keys().filter(|n| *n != "part") {
        assert!(everything.get(name).is_some(), "{name}");
    }
    assert!(!everything["flips"].as_array().unwrap().is_empty());
    assert_eq!(everything["flips"][0]["context"].as_str().map(str::is_empty), Some(false));
    let worst = everything["worst"].as_array().unwrap();
    assert_eq!(worst[0]["kl_nats"], everything["logits"]["kl_max_nats"]);
}

/// The check tells a wrong report from a right one.
#[test]
fn what_is_not_documented_is_refused() {
    let schema = schema();
    let report: Value = serde_json::from_str(&drift(&[])).unwrap();
    let refused = |change: fn(&mut Value)| {
        let mut report = report.clone();
        change(&mut report);
        check(&schema, &schema, &report, "").unwrap_err()
    };
    assert!(refused(|r| r["new"] = json!(1)).contains("not documented"));
    assert!(refused(|r| r["tokens"] = json!("many")).contains("not of type"));
    assert!(refused(|r| r["schema"] = json!(SCHEMA + 1)).contains("another constant"));
    assert!(refused(|r| r["logits"]["new"] = json!(0)).contains("not documented"));
    assert!(refused(|r| drop(r.as_object_mut().unwrap().remove("verdict"))).contains("missing"));
    let mut other = report.clone();
    other["schema"] = json!(SCHEMA - 1);
    let message = Drift::from_json("old.json", &other.to_string()).unwrap_err().to_string();
    assert!(message.contains("old.json") && message.contains("version 3"), "{message}");
}

/// The gates of a run are counted once each, and the worst positions are the largest of all.
#[test]
fn what_is_shown_is_what_was_measured() {
    let report: Value = serde_json::from_str(&drift(&["--b", "silu"])).unwrap();
    for layer in report["layers"].as_array().unwrap() {
        let gates = &layer["gates"];
        let counts = gates["counts"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap());
        let total = counts.sum::<u64>()
            + gates["below"].as_u64().unwrap()
            + gates["above"].as_u64().unwrap();
        assert_eq!(total, 512 * report["tokens"].as_u64().unwrap());
    }
    let kl: Vec<f64> = report["positions"]["kl_mean_nats"]
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect();
    let mut sorted = kl.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    for (worst, largest) in report["worst"].as_array().unwrap().iter().zip(sorted) {
        assert_eq!(worst["kl_nats"], largest);
        assert_eq!(kl[worst["position"].as_u64().unwrap() as usize], largest);
    }
    let flips = report["flips"].as_array().unwrap();
    let agreement = report["logits"]["top1_agreement"].as_f64().unwrap();
    let count = report["flip_count"].as_u64().unwrap();
    assert_eq!(count, (100.0 * (1.0 - agreement)).round() as u64);
    for flip in flips {
        assert_ne!(flip["likeliest"][0]["id"], flip["likeliest"][1]["id"]);
        assert!(flip["margins"][0].as_f64().unwrap() >= 0.0);
    }
}
