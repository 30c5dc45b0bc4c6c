//! Every example runs. `cargo test` has built them beside the binary.

use gemma_mlp::Checkpoint;
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
    let printed = run("forward", &[]);
    assert!(printed.contains("layer 3: gate RMS") && printed.contains("with probability"));
}

#[test]
fn toggle_activation() {
    assert!(run("toggle_activation", &[]).contains("input gradient"));
}

#[test]
fn embed_in_model() {
    assert_eq!(run("embed_in_model", &[]).lines().count(), 2);
}

/// A few steps lower the loss under both activations and leave a checkpoint that opens. What does
/// not depend on how a machine adds is what is committed.
#[test]
fn train_tiny() {
    let dir = tempfile::tempdir().unwrap();
    let printed = run("train_tiny", &[dir.path().to_str().unwrap(), "6"]);
    for gelu in ["tanh", "exact"] {
        let lines = printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let losses = lines
            .filter_map(|words| match words[..] {
                [name, "loss", first, "->", last, ..] if name == gelu => Some([first, last]),
                _ => None,
            })
            .next()
            .unwrap();
        let [first, last] = losses.map(|loss| loss.parse::<f64>().unwrap());
        assert!(first.is_finite() && 0.0 < last && last < 0.9 * first, "{gelu}: {first} {last}");
    }
    let made = Checkpoint::open(dir.path()).unwrap();
    let committed = Checkpoint::embedded().unwrap();
    assert_eq!(made.tensors().size_in_bytes(), committed.tensors().size_in_bytes());
    for text in ["The quick brown fox", "  naïve 日本\n\tx = 1"] {
        let ids = made.encode(text).unwrap();
        assert_eq!(made.decode(&ids).unwrap(), text);
        assert_eq!(committed.encode(text).unwrap(), ids);
    }
}
