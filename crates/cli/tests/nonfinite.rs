//! What the program says where figures are not finite or were not measured, and that it can read what
//! it wrote of them.

use crate::common::{HIDDEN, Spec, gemma3_config, gemma3_specs, write_checkpoint};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn output(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gemma-mlp")).args(args).output().unwrap()
}

fn run(args: &[&str]) -> String {
    let output = output(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A checkpoint with some tensors changed, and a text of tokens for it.
struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new(config: &Value, specs: &[Spec], ids: &[u32]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_checkpoint(dir.path(), config, specs);
        std::fs::write(dir.path().join("ids.json"), json!(ids).to_string()).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn drift(&self, more: &[&str]) -> String {
        let (dir, ids) = (self.dir.path().to_str().unwrap(), self.path("ids.json"));
        let args = ["drift", "--cpu", "--model", dir, "--ids", ids.to_str().unwrap()];
        run(&[&args[..], more].concat())
    }
}

/// The tensors of a checkpoint, of which one has a number put into its first row.
fn spoiled(name: &str, row: usize, number: f32) -> Vec<Spec> {
    let mut specs = gemma3_specs("model.");
    let spec = specs.iter_mut().find(|spec| spec.name == name).unwrap();
    let at = 4 * row * spec.shape[1];
    spec.bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
    specs
}

const IDS: [u32; 8] = [2, 5, 9, 3, 12, 6, 7, 7];

fn last_line(table: &str) -> &str {
    table.lines().rfind(|line| !line.starts_with("warning") && !line.starts_with("note")).unwrap()
}

/// Whether a figure is written as NaN, beside what remarks say of weights.
fn shows_nan(text: &str) -> bool {
    text.replace("NaN or infinite", "").contains("NaN")
}

fn parts_are_read(files: &Files, whole: &str) {
    let parts = ["1", "2"].map(|i| {
        let path = files.path(i);
        files.drift(&[
            "--window",
            "4",
            "--shard",
            &format!("{i}/2"),
            "--out",
            path.to_str().unwrap(),
        ]);
        path
    });
    let [first, second] = parts.each_ref().map(|path: &PathBuf| path.to_str().unwrap());
    assert_eq!(run(&["merge", "--json", first, second]), whole);
    let path = files.path("whole.json");
    std::fs::write(&path, whole).unwrap();
    let (html, csv) = (files.path("page.html"), files.path("all.csv"));
    let report = ["report", path.to_str().unwrap(), "--html", html.to_str().unwrap()];
    let table = run(&[&report[..], &["--csv", csv.to_str().unwrap()]].concat());
    let page = std::fs::read_to_string(html).unwrap();
    assert!(!shows_nan(&table) && !shows_nan(&page), "{table}");
}

/// Both sides broken: no agreement of 100 %, and every report is read.
#[test]
fn weights_that_are_not_finite() {
    for number in [f32::NAN, f32::INFINITY] {
        let specs = spoiled("model.layers.0.mlp.down_proj.weight", 0, number);
        let files = Files::new(&gemma3_config(), &specs, &IDS);
        let table = files.drift(&["--window", "4"]);
        let last = last_line(&table);
        assert!(last.contains("both sides are not finite, first in layer 0"), "{table}");
        assert!(last.contains("logits at 8 of 8 positions"), "{table}");
        let row = |name: &str| {
            let line = table.lines().find(|line| line.starts_with(name)).unwrap();
            line[name.len()..].split_whitespace().map(String::from).collect::<Vec<_>>()
        };
        assert_eq!(row("same top token"), ["-", "-"], "{table}");
        assert_eq!(row("positions not finite"), ["8", "8"], "{table}");
        assert_eq!(row("KL mean, nats"), ["-", "-", "-"], "{table}");
        assert!(!shows_nan(&table) && !table.contains("00 %"), "{table}");
        let whole = files.drift(&["--window", "4", "--json"]);
        let value: Value = serde_json::from_str(&whole).unwrap();
        assert_eq!(value["verdict"]["size"], "not-finite");
        assert_eq!(value["verdict"]["nonfinite"], json!({"a": true, "b": true}));
        assert_eq!((&value["flip_count"], &value["worst"]), (&json!(0), &json!([])));
        parts_are_read(&files, &whole);
    }
}

/// A token whose embedding is not finite, in the last of three windows: the others are measured.
#[test]
fn some_positions_that_are_not_finite() {
    let config = {
        let mut config = gemma3_config();
        config["tie_word_embeddings"] = false.into();
        config
    };
    let mut specs = spoiled("model.embed_tokens.weight", 7, f32::NAN);
    specs.push(Spec::f32("lm_head.weight", &[16, HIDDEN]));
    let files = Files::new(&config, &specs, &[2, 5, 9, 3, 12, 6, 4, 8, 10, 7]);
    let table = files.drift(&["--window", "4"]);
    assert!(last_line(&table).contains("logits at 3 of 10 positions"), "{table}");
    let whole = files.drift(&["--window", "4", "--json"]);
    let value: Value = serde_json::from_str(&whole).unwrap();
    let logits = &value["logits"];
    assert_eq!(logits["nonfinite_positions"], 3.0);
    assert!(logits["kl_mean_nats"].is_null() && logits["kl_median_nats"].is_f64(), "{logits}");
    // Of the seven that have a likeliest token.
    let flips = value["flip_count"].as_f64().unwrap();
    assert_eq!(logits["top1_agreement"], 1.0 - flips / 7.0);
    assert!(value["worst"].as_array().unwrap().len() <= 7);
    parts_are_read(&files, &whole);
}

/// Which side it is.
#[test]
fn one_side_that_is_not_finite() {
    // In f16 the norm's weight is infinite.
    let mut specs = gemma3_specs("model.");
    let norm = specs.iter_mut().find(|s| s.name.ends_with("post_feedforward_layernorm.weight"));
    norm.unwrap().bytes = [1e6f32; HIDDEN].iter().flat_map(|x| x.to_le_bytes()).collect();
    let files = Files::new(&gemma3_config(), &specs, &IDS);
    for (sides, whose) in [
        (["tanh:f16", "tanh:f32"], "side a, the reference, are not finite"),
        (["tanh:f32", "tanh:f16"], "side b alone are not finite"),
        (["tanh:f16", "exact:f16"], "both sides are not finite"),
    ] {
        let table = files.drift(&["--a", sides[0], "--b", sides[1]]);
        assert!(last_line(&table).contains(whose), "{table}");
    }
    // Where the floor alone is not, the drift stands.
    let floor = ["--floor-dtype", "f16"];
    let table = files.drift(&floor);
    let last = last_line(&table);
    assert!(last.contains("no noise floor beside it: values of tanh in f16 are not"), "{table}");
    assert!(
        last.contains("The logits move by a mean KL of") && last.contains("goes from"),
        "{table}"
    );
    let page = files.path("page.html");
    let json = files.drift(&["--floor-dtype", "f16", "--json", "--html", page.to_str().unwrap()]);
    let value: Value = serde_json::from_str(&json).unwrap();
    let verdict = &value["verdict"];
    assert_eq!(verdict["size"], "floor-not-finite");
    assert_eq!(verdict["floor_nonfinite"], json!({"a": false, "b": true}));
    assert!(value["logits"]["kl_mean_nats"].is_f64());
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("badge floor-not-finite"));
}

/// One token has no perplexity, and that is said in words.
#[test]
fn one_token() {
    let dir = tempfile::tempdir().unwrap();
    let ids = |name: &str, ids: Value| {
        let path = dir.path().join(name);
        std::fs::write(&path, ids.to_string()).unwrap();
        path.to_str().unwrap().to_string()
    };
    for texts in [json!([2]), json!([[2], [5]])] {
        let (ids, page) = (ids("ids.json", texts), dir.path().join("page.html"));
        let table = run(&["drift", "--cpu", "--ids", &ids, "--html", page.to_str().unwrap()]);
        let last = last_line(&table);
        assert!(last.ends_with("perplexity needs a text of at least two tokens."), "{table}");
        let page = std::fs::read_to_string(page).unwrap();
        for text in [table, page] {
            assert!(!text.contains("NaN") && !text.contains("nan "), "{text}");
        }
    }
    // Two tokens have one, without an error.
    let table = run(&["drift", "--cpu", "--ids", &ids("two.json", json!([2, 5]))]);
    assert!(table.contains("perplexity goes from") && !table.contains("±"), "{table}");
}

/// Why blocks alone are compared, on noise.
#[test]
fn blocks_alone() {
    let mut config = gemma3_config();
    config["layer_types"] = json!(["full_attention"]);
    config["rope_scaling"] = json!({"rope_type": "yarn", "factor": 4.0});
    let files = Files::new(&config, &gemma3_specs("model."), &IDS);
    let page = files.path("page.html");
    let table = files.drift(&["--html", page.to_str().unwrap()]);
    let value: Value = serde_json::from_str(&files.drift(&["--json"])).unwrap();
    let why = value["blocks_only"].as_str().unwrap();
    assert!(why.contains("yarn"), "{why}");
    let input = table.lines().find(|line| line.starts_with("input:")).unwrap();
    assert!(input.contains("Gaussian noise") && input.ends_with(why), "{table}");
    assert!(std::fs::read_to_string(page).unwrap().contains("yarn"));
    let model = files.dir.path().to_str().unwrap();
    let ids = files.path("ids.json");
    let forward = ["forward", "--cpu", "--model", model, "--ids", ids.to_str().unwrap()];
    let table = run(&forward);
    assert!(table.lines().any(|line| line.starts_with("input:") && line.ends_with(why)), "{table}");
    let value: Value = serde_json::from_str(&run(&[&forward[..], &["--json"]].concat())).unwrap();
    assert_eq!(value["blocks_only"], why);
    // Where the whole model runs, there is nothing to say.
    let value: Value = serde_json::from_str(&run(&["drift", "--cpu", "--json"])).unwrap();
    assert_eq!(value["blocks_only"], Value::Null);
}

/// Blocks alone, of which one side or the floor overflows.
#[test]
fn blocks_that_are_not_finite() {
    let mut config = gemma3_config();
    config["layer_types"] = json!(["full_attention"]);
    config["rope_scaling"] = json!({"rope_type": "yarn", "factor": 4.0});
    let mut specs = gemma3_specs("model.");
    let down = specs.iter_mut().find(|spec| spec.name.ends_with("down_proj.weight")).unwrap();
    down.bytes = (0..down.bytes.len() / 4).flat_map(|_| 1e6f32.to_le_bytes()).collect();
    let files = Files::new(&config, &specs, &IDS);
    let table = files.drift(&["--b", "exact:f16"]);
    assert!(last_line(&table).contains("side b alone are not finite"), "{table}");
    let table = files.drift(&["--floor-dtype", "f16"]);
    assert!(last_line(&table).contains("values of tanh in f16 are not finite"), "{table}");
    assert!(last_line(&table).contains("block output moves farthest, by"), "{table}");
}

/// llama.cpp's positions, by the program.
#[test]
fn scored_by_halves() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page.html");
    let args = ["drift", "--cpu", "--window", "32", "--score", "second-half"];
    let table = run(&[&args[..], &["--html", page.to_str().unwrap()]].concat());
    assert!(table.contains("in the second half of each window, as llama.cpp does"), "{table}");
    assert!(table.contains("note: the last 4 tokens make no whole window of 32"), "{table}");
    assert!(std::fs::read_to_string(page).unwrap().contains("as llama.cpp scores it"));
    let value: Value = serde_json::from_str(&run(&[&args[..], &["--json"]].concat())).unwrap();
    let windows = value["windows"].as_u64().unwrap();
    assert_eq!(
        (value["tokens"].as_u64(), &value["score"]),
        (Some(15 * windows), &json!("second-half"))
    );
    assert_eq!(value["floor"]["tokens"], value["tokens"]);
    for (more, fragment) in [
        (&["--window", "2048"][..], "no text has the 2048 tokens"),
        (&["--window", "2"], "at least 3 tokens"),
        (&["--window", "32", "--stride", "16"], "the stride must be the window"),
        (&["--window", "32", "--floor-tokens", "16"], "take more floor tokens"),
    ] {
        let output = output(&[&["drift", "--score", "second-half"], more].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(fragment) && stderr.lines().count() == 1, "{stderr}");
    }
}

/// Names that would do something to a terminal.
#[test]
fn control_characters() {
    let report = run(&["drift", "--cpu", "--json", "--rank"]);
    let mut report: Value = serde_json::from_str(&report).unwrap();
    let hostile = "a\u{1b}[31m\u{9b}2J\rb\nc\u{202e}d";
    report["checkpoint"]["source"] = hostile.into();
    report["checkpoint"]["activation"]["reason"] = hostile.into();
    report["checkpoint"]["dtype"] = hostile.into();
    report["blocks_only"] = hostile.into();
    report["ranking"][0]["difference"] = hostile.into();
    report["remarks"] = json!([{"kind": "weights", "level": "warning", "text": hostile}]);
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, report: &Value| {
        let path = Path::new(dir.path()).join(name);
        std::fs::write(&path, report.to_string()).unwrap();
        path.to_str().unwrap().to_string()
    };
    let path = write("one.json", &report);
    for table in [run(&["report", &path]), run(&["report", &path, &path])] {
        let odd = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!table.contains(odd), "{table:?}");
        assert!(table.contains("b↵c"), "{table}");
    }
}
