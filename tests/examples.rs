//! Every example runs. `cargo test` has built them beside the binary.

use std::path::Path;
use std::process::Command;

fn run(name: &str, args: &[&str]) -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_gemma-mlp"));
    let path = binary.with_file_name("examples").join(name);
    let output = Command::new(path).args(args).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn forward() {
    assert!(run("forward", &[]).contains("output [1, 32, 128]"));
}

#[test]
fn toggle_activation() {
    assert!(run("toggle_activation", &[]).contains("input gradient"));
}

#[test]
fn embed_in_model() {
    assert_eq!(run("embed_in_model", &[]).lines().count(), 2);
}

/// The committed checkpoint is what its example makes.
#[test]
fn make_tiny() {
    let dir = tempfile::tempdir().unwrap();
    run("make_tiny", &[dir.path().to_str().unwrap()]);
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/tiny-gemma3");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let (made, kept) =
            (std::fs::read(dir.path().join(name)), std::fs::read(committed.join(name)));
        assert!(made.unwrap() == kept.unwrap(), "{name} differs");
    }
}
