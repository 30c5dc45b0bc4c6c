//! Every example runs. `cargo test` has built them beside the tests.

use gemma_mlp::Checkpoint;
use std::path::PathBuf;
use std::process::Command;

fn path(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap(); // target/release/deps/library-…
    this.ancestors().nth(2).unwrap().join("examples").join(name)
}

fn run(name: &str, args: &[&str]) -> String {
    let output = Command::new(path(name)).args(args).output().unwrap();
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
    let printed = run("embed_in_model", &[]);
    let starts: Vec<_> = printed.lines().map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(starts.len(), 2);
    // The same weights: what the activations make of them differs in the fourth digit at most.
    let [a, b] = [starts[0], starts[1]].map(|loss| loss.unwrap().parse::<f64>().unwrap());
    assert!((a - b).abs() < 1e-3, "{printed}");
}

/// Ours is no farther from f64 than what it replaces, in f32 by little and in bf16 nearer.
#[test]
fn replace_mlp() {
    let printed = run("replace_mlp", &[]);
    let rows: Vec<Vec<&str>> =
        printed.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 8, "{printed}");
    for row in rows {
        let [theirs, ours] = [row[3], row[4]].map(|figure| figure.parse::<f64>().unwrap());
        let bound = if row[0] == "f32" { 1e-6 } else { theirs };
        assert!(ours < bound, "{row:?}");
    }
}

#[test]
fn serve() {
    let printed = run("serve", &[]);
    assert_eq!(printed.lines().count(), 4, "{printed}");
    assert!(printed.starts_with("The small dog"), "{printed}");
}

/// The figures of docs/gelu.md.
#[test]
fn gelu_forms() {
    let printed = run("gelu_forms", &[]);
    let document = include_str!("../docs/gelu.md");
    let block = document.split("```console").nth(1).unwrap().split("```").next().unwrap();
    let block = block.trim_start().strip_prefix("$ cargo run --release --example gelu_forms\n");
    assert_eq!(printed, block.unwrap());
}

/// The harness that judges others, on what candle computes: read from standard input it is as far
/// off as in the document.
#[test]
fn prove_gelu_judges_what_it_reads() {
    use candle_core::{Device, Tensor};
    use std::io::Write;
    let all: Vec<half::bf16> = (0..=u16::MAX).map(half::bf16::from_bits).collect();
    let y = Tensor::from_vec(all, 1 << 16, &Device::Cpu).unwrap().gelu().unwrap();
    let bytes: Vec<u8> =
        y.to_vec1::<half::bf16>().unwrap().into_iter().flat_map(|y| y.to_le_bytes()).collect();
    let judge = |bytes: &[u8]| {
        let mut child = Command::new(path("prove_gelu"))
            .args(["--stdin", "candle", "tanh", "bf16"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        child.wait_with_output().unwrap()
    };
    let printed = String::from_utf8(judge(&bytes).stdout).unwrap();
    // How many results are not the nearest depends on the platform's tanh, the worst does not.
    assert!(
        printed.starts_with("| candle | tanh | bf16 | 65280 | 255.8908 | -3.1875 |"),
        "{printed}"
    );
    let short = judge(&bytes[..100]);
    assert!(!short.status.success());
    assert!(String::from_utf8_lossy(&short.stderr).contains("ended early"));
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
    let committed = Checkpoint::open("weights/tiny-gemma3").unwrap();
    assert_eq!(made.tensors().size_in_bytes(), committed.tensors().size_in_bytes());
    for text in ["The quick brown fox", "  naïve 日本\n\tx = 1"] {
        let ids = made.encode(text).unwrap();
        assert_eq!(made.decode(&ids).unwrap(), text);
        assert_eq!(committed.encode(text).unwrap(), ids);
    }
}
