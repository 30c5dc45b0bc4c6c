//! `gemma-mlp capture` and `gemma-mlp compare` as programs call them.

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn tool(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gemma-mlp")).current_dir(dir).args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// One line, this exit code, and words.
fn fails(dir: &Path, args: &[&str], code: i32, words: &[&str]) {
    let output = tool(dir, args);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(word), "{args:?}: '{word}' is not in: {said}");
    }
}

fn capture(dir: &Path, args: &[&str]) {
    let output = tool(dir, &[&["capture", "--prompt", "The quick brown fox"], args].concat());
    assert!(output.status.success(), "{}", stderr(&output));
}

/// The exit code, and the report.
fn compare(dir: &Path, args: &[&str]) -> (i32, Value) {
    let output = tool(dir, &[&["compare", "--json"], args].concat());
    let code = output.status.code().unwrap();
    assert!(code < 2, "{args:?}: {}", stderr(&output));
    (code, serde_json::from_slice(&output.stdout).unwrap())
}

#[test]
fn help_has_the_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let help = String::from_utf8(tool(dir.path(), &["compare", "--help"]).stdout).unwrap();
    for words in ["THEIRS [OURS]", "--server URL", "Exit codes: 0", "3 any other failure"] {
        assert!(help.contains(words), "{help}");
    }
}

#[test]
fn scripts_are_printed_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    for (name, file) in [
        ("transformers", include_str!("../python/gemma_mlp/transformers.py")),
        ("jax", include_str!("../python/gemma_mlp/jax.py")),
        ("keras", include_str!("../python/gemma_mlp/keras.py")),
        ("llama.cpp", include_str!("../python/gemma_mlp/llama_cpp.py")),
        ("candle", include_str!("../src/cli/scripts/capture_candle.rs")),
    ] {
        let output = tool(dir.path(), &["capture", "--script", name]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), file, "{name}");
    }
    fails(dir.path(), &["capture", "--script", "mxnet"], 2, &["transformers", "llama.cpp"]);
    fails(dir.path(), &["capture", "--script", "jax", "--out", "a"], 2, &["--script"]);
    fails(dir.path(), &["capture"], 2, &["--out"]);
}

/// What does not fit together is refused before anything is read, and never looks like a difference.
#[test]
fn usage() {
    let dir = tempfile::tempdir().unwrap();
    for (args, words) in [
        (&["compare"][..], &["THEIRS"][..]),
        (&["compare", "a", "b", "--model", "m"], &["--model"]),
        (&["compare", "a", "b", "--revision", "r"], &["--revision"]),
        (&["compare", "a", "--server", "http://x"], &["--server"]),
        (&["compare", "a", "--prompt", "x"], &["--server"]),
        (&["compare", "a", "--top", "3"], &["--server"]),
        (&["compare", "a", "--allow", "x"], &["REGEX=RATIO"]),
        (&["compare", "a", "--allow", "(=2"], &["regular expression"]),
        (&["compare", "a", "--allow", "x=0"], &["ratio"]),
        (&["compare", "a", "--layers", "x"], &["layer"]),
        (&["compare", "not-there"], &["not-there"]),
        (&["compare", "not-there", "also-not"], &["not-there"]),
        (&["compare", "a", "--map", "not-there.json"], &["not-there.json"]),
        (&["capture", "--out", "a", "--points", "("], &["--points"]),
        (&["capture", "--out", "a", "--layers", "99"], &["99"]),
        (&["capture", "--out", "no/a", "--layers", "0"], &["no/a"]),
    ] {
        fails(dir.path(), args, 2, words);
    }
}

#[test]
fn inputs_are_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["theirs", "ours", "reference", "map", "ids"] {
        fs::write(dir.path().join(name), "[2, 5]").unwrap();
    }
    let all = ["compare", "theirs", "--reference", "reference", "--map", "map", "--ids", "ids"];
    for name in ["theirs", "reference", "map", "ids"] {
        for flag in ["--csv", "--html", "--out"] {
            fails(dir.path(), &[&all[..], &[flag, name]].concat(), 2, &[name, "an input too"]);
        }
    }
    fails(dir.path(), &["compare", "theirs", "ours", "--csv", "ours"], 2, &["an input too"]);
    fails(dir.path(), &["capture", "--ids", "ids", "--out", "ids"], 2, &["an input too"]);
    fails(dir.path(), &["compare", "theirs", "--csv", "x", "--html", "x"], 2, &["two results"]);
    assert_eq!(fs::read_to_string(dir.path().join("theirs")).unwrap(), "[2, 5]");
}

/// A dump of our own agrees with our own model, and another activation is named.
#[test]
fn exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    capture(dir, &["--out", "ours.safetensors"]);
    let (code, report) = compare(dir, &["ours.safetensors"]);
    assert_eq!((code, &report["agrees"], &report["first"]), (0, &true.into(), &Value::Null));
    capture(dir, &["--out", "theirs.safetensors", "--activation", "exact"]);
    let (code, report) = compare(dir, &["theirs.safetensors"]);
    assert_eq!((code, &report["agrees"]), (1, &false.into()));
    assert_eq!(report["first"]["layer"], 0);
    let cause = report["causes"][0]["name"].as_str().unwrap_or_default().to_lowercase();
    assert!(cause.contains("exact"), "{report:#}");
    let (code, report) = compare(dir, &["theirs.safetensors", "ours.safetensors"]);
    assert_eq!((code, &report["agrees"]), (1, &false.into()));
    // What differs is known to, and may.
    let allowed = ["theirs.safetensors", "--allow", ".=1e9"];
    assert_eq!(compare(dir, &allowed).0, 0);
    // A result that cannot be written is no difference.
    if Path::new("/dev/full").exists() {
        let full = ["compare", "ours.safetensors", "--csv", "/dev/full"];
        fails(dir, &full, 3, &["cannot write"]);
    }
    // Files in place of what is printed.
    let files =
        ["compare", "theirs.safetensors", "--csv", "a.csv", "--html", "a.html", "--out", "a.json"];
    assert_eq!(tool(dir, &files).status.code(), Some(1));
    for (file, word) in [("a.csv", "same_input"), ("a.html", "</html>"), ("a.json", "\"verdict\"")]
    {
        assert!(fs::read_to_string(dir.join(file)).unwrap().contains(word), "{file}");
    }
}
