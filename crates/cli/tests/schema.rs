//! The JSON reports are what docs/drift.schema.json and docs/compare.schema.json say, no more and no less.

use crate::common::{gemma3_config, gemma3_specs, write_checkpoint};
use crate::comparisons;
use boon::{Compiler, SchemaIndex, Schemas};
use gemma_mlp_cli::report;
use gemma_mlp_drift::compare::{self, Comparison};
use gemma_mlp_drift::drift::{Drift, SCHEMA};
use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// A report's schema.
struct Described {
    /// Where it is kept, in docs/.
    file: &'static str,
    schema: fn() -> Value,
}

const DRIFT: Described =
    Described { file: "drift.schema.json", schema: || schema::<Drift>("gemma-mlp drift") };
const COMPARISON: Described =
    Described { file: "compare.schema.json", schema: || schema::<Comparison>("gemma-mlp compare") };

/// The schema that a report's types give.
fn schema<T: JsonSchema>(title: &str) -> Value {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = generator.into_root_schema_for::<T>();
    RecursiveTransform(strict).transform(&mut schema);
    RecursiveTransform(plain).transform(&mut schema);
    schema.insert("title".into(), json!(title));
    schema.into()
}

/// What the types do not say: numbers that are not finite are null, and nothing else is in an object.
fn strict(schema: &mut Schema) {
    if schema.get("type") == Some(&json!("number")) {
        schema.insert("type".into(), json!(["number", "null"]));
    }
    if schema.get("properties").is_some() {
        schema.insert("additionalProperties".into(), json!(false));
    }
    schema.remove("format");
}

/// Descriptions are the types' documentation, whose lines and links mean nothing here.
fn plain(schema: &mut Schema) {
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace('\n', " ").replace("[`", "`").replace("`]", "`");
    }
}

/// The schema, ready to be applied.
struct Validator(Schemas, SchemaIndex);

impl Validator {
    fn new(described: &Described) -> Self {
        let (mut compiler, mut schemas) = (Compiler::new(), Schemas::new());
        compiler.add_resource(described.file, (described.schema)()).unwrap();
        let index = compiler.compile(described.file, &mut schemas).unwrap();
        Self(schemas, index)
    }

    fn validate(&self, report: &Value) -> Result<(), String> {
        self.0.validate(report, self.1).map_err(|e| format!("{e:#}"))
    }
}

/// The files are what the types give. `UPDATE_SCHEMA=1 cargo test --release -p gemma-mlp-cli --test program schema::` writes
/// them anew; who changes a name, a type or a meaning raises `SCHEMA` as well.
#[test]
fn the_files_are_what_the_types_give() {
    for Described { file, schema } in [DRIFT, COMPARISON] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(file);
        let generated = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(&path, &generated).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap();
        assert!(kept == generated, "docs/{file} is another; UPDATE_SCHEMA=1 writes it");
    }
}

/// Whatever was found, a comparison is as documented; and the schema tells a wrong one.
#[test]
fn comparisons_are_as_documented() {
    let validator = Validator::new(&COMPARISON);
    let value = |comparison: &Comparison| -> Value {
        serde_json::from_str(&report::json(comparison).unwrap()).unwrap()
    };
    for (name, comparison) in comparisons::all() {
        validator.validate(&value(&comparison)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let report = value(&comparisons::wrong_mlp());
    // What other programs read.
    let first = json!([report["first"]["layer"], report["first"]["point"]]);
    assert_eq!(first, json!([comparisons::GUILTY, "mlp.activated"]));
    assert_eq!(report["causes"][0]["name"], "SiLU in place of GELU");
    assert_eq!(report["causes"][0]["runner_up"], 0.84);
    let ours = value(&comparisons::agrees());
    assert_eq!((&ours["agrees"], &ours["first"]), (&json!(true), &Value::Null));
    assert!(ours["verdict"].is_string() && ours["layers"].is_array());
    let refused = |change: fn(&mut Value)| {
        let mut report = report.clone();
        change(&mut report);
        assert!(validator.validate(&report).is_err());
    };
    refused(|r| r["new"] = json!(1));
    refused(|r| r["schema"] = json!(compare::SCHEMA + 1));
    refused(|r| r["first"]["layer"] = json!("12"));
    refused(|r| r["layers"][0]["points"][0]["same_input"]["new"] = json!(0));
    refused(|r| drop(r.as_object_mut().unwrap().remove("agrees")));
}

/// So are those that the program prints: of another activation, without BOS, of logits alone, and of two dumps.
#[test]
fn what_compare_prints_is_as_documented() {
    let validator = Validator::new(&COMPARISON);
    let dir = tempfile::tempdir().unwrap();
    let tool = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-mlp"));
        command.args(args).current_dir(&dir).output().unwrap()
    };
    std::fs::write(dir.path().join("ids.json"), "[2, 9, 70, 5]").unwrap();
    std::fs::write(dir.path().join("short.json"), "[9, 70, 5]").unwrap();
    for args in [
        &["--ids", "ids.json", "--out", "ours"][..],
        &["--ids", "ids.json", "--out", "exact", "--activation", "exact"],
        &["--ids", "ids.json", "--out", "logits", "--activation", "silu", "--points", "logits"],
        &["--ids", "short.json", "--out", "short"],
    ] {
        assert!(tool(&[&["capture"], args].concat()).status.success(), "{args:?}");
    }
    for args in [
        &["ours"][..],
        &["exact"],
        &["exact", "--reference", "ours", "--allow", "mlp=3", "--layers", "1"],
        &["logits", "--dtype", "bf16"],
        &["short", "--ids", "ids.json"],
        &["exact", "ours"],
    ] {
        let printed = tool(&[&["compare", "--json"], args].concat()).stdout;
        let report: Value = serde_json::from_slice(&printed).unwrap();
        validator.validate(&report).unwrap_or_else(|e| panic!("{args:?}: {e}"));
    }
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

/// A checkpoint whose attention is not supported, and whose blocks run alone: no logits, gaussian input.
fn without_logits(dir: &Path) -> String {
    let mut config = gemma3_config();
    config["rope_scaling"] = serde_json::json!({"rope_type": "yarn", "factor": 2.0});
    write_checkpoint(dir, &config, &gemma3_specs("model."));
    let ids = dir.join("ids.json");
    std::fs::write(&ids, "[1, 2, 3]").unwrap();
    drift(&["--model", dir.to_str().unwrap(), "--ids", ids.to_str().unwrap()])
}

#[test]
fn reports_are_as_documented() {
    let dir = tempfile::tempdir().unwrap();
    let schema = (DRIFT.schema)();
    let validator = Validator::new(&DRIFT);
    let all = drift(&["--gradients", "--rank", "--b", "silu"]);
    for (name, report) in [
        ("the default", drift(&[])),
        ("everything", all.clone()),
        ("a part", drift(&["--window", "32", "--shard", "1/3"])),
        ("without logits", without_logits(dir.path())),
    ] {
        let value: Value = serde_json::from_str(&report).unwrap();
        validator.validate(&value).unwrap_or_else(|e| panic!("{name}: {e}"));
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

/// The schema tells a wrong report from a right one.
#[test]
fn what_is_not_documented_is_refused() {
    let validator = Validator::new(&DRIFT);
    let report: Value = serde_json::from_str(&drift(&[])).unwrap();
    let refused = |change: fn(&mut Value)| {
        let mut report = report.clone();
        change(&mut report);
        assert!(validator.validate(&report).is_err());
    };
    refused(|r| r["new"] = json!(1));
    refused(|r| r["tokens"] = json!("many"));
    refused(|r| r["schema"] = json!(SCHEMA + 1));
    refused(|r| r["logits"]["new"] = json!(0));
    refused(|r| r["verdict"]["basis"]["logits"]["new"] = json!(0));
    refused(|r| drop(r.as_object_mut().unwrap().remove("verdict")));
    let mut other = report.clone();
    other["schema"] = json!(SCHEMA - 1);
    let message = Drift::from_json("old.json", &other.to_string()).unwrap_err().to_string();
    let older = format!("version {}", SCHEMA - 1);
    assert!(message.contains("old.json") && message.contains(&older), "{message}");
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
