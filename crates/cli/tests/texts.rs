//! Texts, token ids and tokenizers as people have them: what is odd about them stands beside the result.

use crate::common::{gemma3_config, gemma3_specs, write_checkpoint};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../weights/tiny-gemma3");

/// A folder for what is passed in.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The small checkpoint with another tokenizer.
    fn tiny(&self, change: impl FnOnce(&mut Value)) -> &Path {
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(Path::new(TINY).join(name), self.0.path().join(name)).unwrap();
        }
        let json = std::fs::read(Path::new(TINY).join("tokenizer.json")).unwrap();
        let mut json = serde_json::from_slice(&json).unwrap();
        change(&mut json);
        self.file("tokenizer.json", json.to_string());
        self.0.path()
    }
}

fn command(args: &[&str], paths: &[&Path]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_gemma-mlp")).args(args).args(paths).output().unwrap()
}

/// The JSON of a run that succeeds, with its remarks as lines.
fn run(args: &[&str], paths: &[&Path]) -> (Value, Vec<String>) {
    let output = command(&[&[args[0], "--json"], &args[1..]].concat(), paths);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let line =
        |r: &Value| format!("{}: {}", r["level"].as_str().unwrap(), r["text"].as_str().unwrap());
    let remarks = json["remarks"].as_array().unwrap().iter().map(line).collect();
    (json, remarks)
}

/// One line that has the fragments, and exit code 2.
fn refused(args: &[&str], paths: &[&Path], fragments: &[&str]) {
    let output = command(args, paths);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
    for fragment in fragments {
        assert!(stderr.contains(fragment), "'{fragment}' is not in: {stderr}");
    }
}

fn assert_one(remarks: &[String], begins: &str, fragments: &[&str]) {
    assert_eq!(remarks.len(), 1, "{remarks:?}");
    assert!(remarks[0].starts_with(begins), "{remarks:?}");
    for fragment in fragments {
        assert!(remarks[0].contains(fragment), "'{fragment}' is not in: {remarks:?}");
    }
}

#[test]
fn files_as_editors_write_them() {
    let folder = Folder::new();
    let plain = folder.file("plain", "The quick brown fox.\n");
    let (want, none) = run(&["forward", "--text"], &[&plain]);
    assert!(none.is_empty());
    let windows = folder.file("windows", "The quick brown fox.\r\n");
    let (got, none) = run(&["forward", "--text"], &[&windows]);
    assert!(got["top"] == want["top"] && none.is_empty());
    let marked = folder.file("marked", "\u{feff}The quick brown fox.\n");
    let (got, remarks) = run(&["forward", "--text"], &[&marked]);
    assert_eq!(got["top"], want["top"]);
    assert_one(&remarks, "note", &["byte order mark"]);
    let inside = folder.file("inside", "The quick\r\nbrown fox.\r\n");
    let (_, remarks) = run(&["drift", "--text"], &[&inside, &plain]);
    assert_one(&remarks, "note", &["carriage returns", "(1 of 2 texts)"]);
    refused(
        &["drift", "--text"],
        &[&folder.file("16", b"\xff\xfea\0")],
        &["16: ", "UTF-16", "UTF-8"],
    );
    refused(&["drift", "--text"], &[&folder.file("latin", b"caf\xe9")], &["latin: ", "position 3"]);
    refused(&["drift", "--text"], &[&folder.file("empty", "\r\n")], &["empty"]);
}

#[test]
fn bos_once() {
    let (want, _) = run(&["forward", "--prompt", "The quick brown fox"], &[]);
    let (got, remarks) = run(&["forward", "--prompt", "<bos>The quick brown fox"], &[]);
    assert_eq!((&got["top"], &got["tokens"]), (&want["top"], &want["tokens"]));
    assert_one(&remarks, "note", &["begins with <bos> itself"]);

    let folder = Folder::new();
    let ids = folder.file("ids", "[[2, 2, 5], [7, 8, 9], [2, 5, 6], [5, 2, 2]]");
    for subcommand in ["forward", "drift"] {
        let (_, remarks) = run(&[subcommand, "--ids"], &[&ids]);
        assert_eq!(remarks.len(), 2, "{remarks:?}");
        assert!(
            remarks[0].starts_with("warning: 2 of 4 texts do not begin with BOS"),
            "{remarks:?}"
        );
        assert!(remarks[1].starts_with("warning: 1 of 4 texts begins with BOS"), "{remarks:?}");
    }
    let dir = folder.tiny(|json| json["post_processor"] = Value::Null);
    for subcommand in ["forward", "drift", "generate"] {
        let (_, remarks) = run(&[subcommand, "--prompt", "The fox", "--model"], &[dir]);
        assert_one(&remarks, "warning: the text does not begin with BOS", &["nonsense"]);
    }
    folder.file("tokenizer_config.json", r#"{"add_bos_token": true, "bos_token": "<bos>"}"#);
    let (got, remarks) = run(&["forward", "--prompt", "The quick brown fox", "--model"], &[dir]);
    assert_eq!(got["top"], want["top"]);
    assert_one(&remarks, "warning: tokenizer_config.json says add_bos_token", &["<bos> is added"]);
}

/// Encoders that ask for no BOS do without.
#[test]
fn encoders_as_they_ask() {
    let folder = Folder::new();
    let dir = folder.0.path();
    let mut config = gemma3_config();
    config["use_bidirectional_attention"] = json!(true);
    write_checkpoint(dir, &config, &gemma3_specs("model."));
    let ids = folder.file("ids.json", "[3, 4, 5]");
    let warned = || {
        let (_, remarks) = run(&["forward", "--ids"], &[&ids, Path::new("--model"), dir]);
        remarks.iter().any(|remark| remark.contains("BOS"))
    };
    assert!(!warned());
    let tokenizer = std::fs::read(Path::new(TINY).join("tokenizer.json")).unwrap();
    folder.file("tokenizer.json", tokenizer);
    assert!(warned());
    folder.file("tokenizer_config.json", r#"{"add_bos_token": false}"#);
    assert!(!warned());
}

#[test]
fn more_tokens_at_once_than_the_model_was_made_for() {
    let folder = Folder::new();
    let dir = folder.tiny(|_| {});
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    config["max_position_embeddings"] = json!(8);
    folder.file("config.json", config.to_string());
    let ids =
        folder.file("ids.json", json!([[2, 3], [2, 3, 4, 5, 6, 7, 8, 9, 10, 11]]).to_string());
    let drift = |window: &str| {
        let args = ["drift", "--window", window, "--ids"];
        run(&args, &[&ids, Path::new("--model"), dir]).1
    };
    assert_one(&drift("2048"), "warning", &["10 tokens at once", "up to 8"]);
    assert!(drift("8").is_empty());
    let generate =
        ["generate", "--prompt", "The quick brown fox jumps over it", "-n", "2", "--model"];
    assert_one(&run(&generate, &[dir]).1, "warning", &["at once", "up to 8"]);
}

/// What a tokenizer is not used for does not stop a run.
#[test]
fn ids_do_without_a_tokenizer() {
    let folder = Folder::new();
    let dir = folder.tiny(|json| {
        json["normalizer"] = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    });
    let ids = folder.file("ids.json", "[2, 3, 4]");
    let run_ids = || run(&["drift", "--ids"], &[&ids, Path::new("--model"), dir]);
    let prompt = ["drift", "--prompt", "The fox", "--model"];
    refused(&prompt, &[dir], &["tokenizer.json", "fails on it"]);
    let (drift, remarks) = run_ids();
    assert_eq!(drift["excerpt"], Value::Null);
    assert_one(&remarks, "note: token ids are shown without their texts", &["fails on it"]);
    folder.file(
        "tokenizer.json",
        "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n",
    );
    refused(&prompt, &[dir], &["tokenizer.json", "git lfs pull"]);
    assert_one(&run_ids().1, "note", &["git lfs pull"]);
    std::fs::remove_file(dir.join("tokenizer.json")).unwrap();
    folder.file("tokenizer.model", "");
    refused(&prompt, &[dir], &["tokenizer.model", "save_pretrained"]);
    assert_one(&run_ids().1, "note", &["no such file"]);
}

#[test]
fn what_a_tokenizer_asks_in_vain_is_said() {
    let folder = Folder::new();
    let dir = folder.tiny(|json| {
        json["truncation"] = json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 5});
    });
    let (forward, remarks) =
        run(&["forward", "--prompt", "The quick brown fox", "--model"], &[dir]);
    assert_eq!(forward["tokens"], 5);
    assert_one(&remarks, "note", &["truncation at 3 tokens"]);
}
