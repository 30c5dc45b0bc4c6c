//! Every command on every checkpoint of today's families that runs.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const CAUSAL: [&str; 10] = [
    "gemma3-linear",
    "gemma4-dense",
    "gemma4-e4b",
    "gemma4-e2b",
    "gemma4-moe",
    "gemma4-proportional",
    "gemma4-unified",
    "gemma3n-a",
    "gemma3n-b",
    "gemma3n-c",
];

const ENCODERS: [&str; 2] = ["embedding-gemma2", "embedding-gemma2-full"];

fn checkpoint(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/families").join(name)
}

/// Longer than every window.
fn ids(dir: &Path) -> PathBuf {
    let ids: Vec<usize> = (0..30).map(|i| (7 * i + i * i % 13) % 64).collect();
    let path = dir.join("ids.json");
    std::fs::write(&path, format!("{ids:?}")).unwrap();
    path
}

/// Runs a command on a checkpoint.
fn run(name: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-mlp"));
    command.args(args).arg("--model").arg(checkpoint(name)).output().unwrap()
}

fn json(name: &str, args: &[&str]) -> Value {
    let output = run(name, &[args, &["--json"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {args:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn refused(name: &str, args: &[&str], part: &str) {
    let output = run(name, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{name} {args:?}: {said}");
    assert!(said.contains(part) && !said.contains("panic"), "{name} {args:?}: {said}");
}

fn positive(value: &Value) -> bool {
    value.as_f64().is_some_and(|x| x > 0.0)
}

#[test]
fn causal_models() {
    let dir = tempfile::tempdir().unwrap();
    let ids = ids(dir.path());
    let ids = ids.to_str().unwrap();
    let out = dir.path().join("out.safetensors");
    let out = out.to_str().unwrap();
    for name in CAUSAL {
        assert!(json(name, &["inspect"])["family"].is_string(), "{name}");
        json(name, &["forward", "--ids", ids, "--out", out]);
        let drift = json(name, &["drift", "--ids", ids, "--gradients", "--rank"]);
        let layers = drift["layers"].as_array().unwrap().len();
        assert!(drift["blocks_only"].is_null(), "{name}");
        assert!(positive(&drift["logits"]["kl_mean_nats"]), "{name}");
        assert!(drift["residual"].as_array().unwrap().iter().all(|r| positive(&r["rel_l2"])));
        let gradients = drift["gradients"].as_array().unwrap();
        assert_eq!(gradients.len(), layers, "{name}");
        let gates = drift["gates"].as_u64().unwrap() as usize;
        let more = ["per_layer_input_gate", "experts_gate_up_proj"];
        let more = more.into_iter().filter(|matrix| gradients[0].get(matrix).is_some());
        assert_eq!(gates, layers * (1 + more.clone().count()), "{name}");
        for matrix in ["gate_proj", "up_proj", "down_proj"].into_iter().chain(more) {
            // A gate that is made sparse may have no gradient at all on a short text.
            let known = gradients.iter().filter(|g| positive(&g[matrix]["rel_l2"])).count();
            assert!(known > layers / 2, "{name} {matrix}");
        }
        assert!(drift["ranking"].as_array().unwrap().len() > 10, "{name}");
        let continued = json(name, &["generate", "--ids", ids, "--sample-len", "5"]);
        assert_eq!(continued["prompt"].as_array().unwrap().len(), 30, "{name}");
        json(name, &["capture", "--ids", ids, "--out", out]);
        let same = json(name, &["compare", out]);
        assert_eq!(same["agrees"], true, "{name}: {}", same["verdict"]);
        json(name, &["capture", "--ids", ids, "--activation", "exact", "--out", out]);
        let output = run(name, &["compare", out, "--json"]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        let exact: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(exact["first"]["layer"], 0, "{name}: {}", exact["verdict"]);
        assert_eq!(exact["first"]["point"], "mlp.activated", "{name}");
        assert_eq!(exact["causes"][0]["name"], "GELU: exact (erf)", "{name}");
    }
}

#[test]
fn encoders() {
    let dir = tempfile::tempdir().unwrap();
    let ids = ids(dir.path());
    let ids = ids.to_str().unwrap();
    let out = dir.path().join("out.safetensors");
    let out = out.to_str().unwrap();
    for name in ENCODERS {
        json(name, &["inspect"]);
        json(name, &["forward", "--ids", ids, "--out", out]);
        let drift = json(name, &["drift", "--ids", ids]);
        let [own, floor] = [&drift["embedding"], &drift["floor"]["embedding"]];
        assert!(positive(&own["distance_mean"]) && positive(&floor["distance_mean"]), "{name}");
        assert!(positive(&own["hidden"]["rel_l2"]), "{name}");
        assert_eq!(drift["verdict"]["basis"]["embedding"]["cosine_mean"], own["cosine_mean"]);
        let cosine = own["cosine_mean"].as_f64().unwrap();
        let distance = own["distance_mean"].as_f64().unwrap();
        assert!((2.0 - 2.0 * cosine - distance * distance).abs() < 1e-6, "{name}");
        assert!(drift["logits"].is_null() && drift["blocks_only"].is_null(), "{name}");
        assert!(positive(&drift["residual"][0]["rel_l2"]), "{name}");
        refused(name, &["drift", "--ids", ids, "--gradients"], "no loss");
        refused(name, &["drift", "--ids", ids, "--rank"], "no logits");
        refused(name, &["generate", "--ids", ids], "generates no text");
        json(name, &["capture", "--ids", ids, "--out", out]);
        let same = json(name, &["compare", out]);
        assert_eq!(same["agrees"], true, "{name}: {}", same["verdict"]);
        json(name, &["capture", "--ids", ids, "--activation", "exact", "--out", out]);
        assert_eq!(run(name, &["compare", out]).status.code(), Some(1), "{name}");
    }
}

/// Gemma 4 that attends in both directions has a head, and continues no text.
#[test]
fn bidirectional_with_a_head() {
    let dir = tempfile::tempdir().unwrap();
    let ids = ids(dir.path());
    let ids = ids.to_str().unwrap();
    let out = dir.path().join("out.safetensors");
    let out = out.to_str().unwrap();
    let name = "gemma4-all";
    let drift = json(name, &["drift", "--ids", ids, "--gradients", "--rank"]);
    assert!(positive(&drift["logits"]["kl_mean_nats"]) && drift["embedding"].is_null());
    assert!(positive(&drift["gradients"][0]["per_layer_input_gate"]["rel_l2"]));
    refused(name, &["generate", "--ids", ids], "sees those behind it");
    json(name, &["capture", "--ids", ids, "--out", out]);
    let same = json(name, &["compare", out]);
    assert_eq!(same["agrees"], true, "{}", same["verdict"]);
}

/// Residual streams that are stacked, as transformers' Gemma 3n has them, lie side by side in ours.
#[test]
fn stacked_streams_are_the_same() {
    use candle_core::{Device, safetensors};
    let dir = tempfile::tempdir().unwrap();
    let ids = ids(dir.path());
    let out = dir.path().join("out.safetensors");
    let (ids, file) = (ids.to_str().unwrap(), out.to_str().unwrap());
    json("gemma3n-b", &["capture", "--ids", ids, "--out", file, "--points", "hidden|embedding"]);
    let tensors = safetensors::load(&out, &Device::Cpu).unwrap();
    for texts in [true, false] {
        let stacked = tensors.iter().map(|(name, t)| match t.dims() {
            &[1, len, all] => {
                let stacked = t.reshape((1, len, 2, all / 2)).unwrap().permute((2, 0, 1, 3));
                let stacked = stacked.unwrap().contiguous().unwrap();
                let stacked = if texts { stacked } else { stacked.squeeze(1).unwrap() };
                (name.clone(), stacked)
            }
            _ => (name.clone(), t.clone()),
        });
        safetensors::save(&stacked.collect(), &out).unwrap();
        let same = json("gemma3n-b", &["compare", file]);
        assert_eq!(same["agrees"], true, "{}", same["verdict"]);
        assert_eq!(same["layers"].as_array().unwrap().len(), 4);
    }
}

/// Words that both mask are equal; what one masks alone is said, and left out.
#[test]
fn masked_logits() {
    use candle_core::{DType, Device, Tensor, safetensors};
    let dir = tempfile::tempdir().unwrap();
    let ids = ids(dir.path());
    let [ours, theirs] = ["ours", "theirs"].map(|name| dir.path().join(name));
    let name = "gemma4-unified";
    let file = ours.to_str().unwrap();
    json(name, &["capture", "--ids", ids.to_str().unwrap(), "--out", file]);
    let mut tensors = safetensors::load(&ours, &Device::Cpu).unwrap();
    let logits = tensors["logits"].clone();
    let masked = |words: usize| {
        let mask: Vec<u8> = (0..64).map(|word| u8::from(word < words)).collect();
        let mask = Tensor::new(mask, &Device::Cpu).unwrap().broadcast_as(logits.shape()).unwrap();
        let low = Tensor::full(f32::NEG_INFINITY, logits.shape(), &Device::Cpu).unwrap();
        mask.where_cond(&low, &logits.to_dtype(DType::F32).unwrap()).unwrap()
    };
    for (path, words) in [(&ours, 3), (&theirs, 5)] {
        tensors.insert("logits".into(), masked(words));
        safetensors::save(&tensors, path).unwrap();
    }
    let theirs = theirs.to_str().unwrap();
    let says = |report: &Value, part: &str| report["remarks"].to_string().contains(part);
    let files = Command::new(env!("CARGO_BIN_EXE_gemma-mlp"))
        .args(["compare", theirs, file, "--json"])
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&files.stdout).unwrap();
    assert_eq!(report["agrees"], true, "{}", report["verdict"]);
    assert!(says(&report, "90 logits are −∞ in both"), "{}", report["remarks"]);
    assert!(says(&report, "60 logits are −∞ in "), "{}", report["remarks"]);
    assert_eq!(report["logits"]["metrics"]["kl_max_nats"], 0.0);
    let report = json(name, &["compare", theirs]);
    assert_eq!(report["agrees"], true, "{}", report["verdict"]);
    assert!(says(&report, "150 logits are −∞ in theirs alone"), "{}", report["remarks"]);
    // A mistake is named all the same, from the logits alone.
    let args = ["capture", "--activation", "exact", "--points", "logits", "--out", file, "--ids"];
    json(name, &[&args[..], &[ids.to_str().unwrap()]].concat());
    let mut tensors = safetensors::load(&ours, &Device::Cpu).unwrap();
    let logits = tensors["logits"].clone();
    let low = masked(3).eq(f32::NEG_INFINITY).unwrap();
    let none = Tensor::full(f32::NEG_INFINITY, logits.shape(), &Device::Cpu).unwrap();
    tensors.insert("logits".into(), low.where_cond(&none, &logits).unwrap());
    safetensors::save(&tensors, &ours).unwrap();
    let output = run(name, &["compare", file, "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["causes"][0]["name"], "GELU: exact (erf)", "{}", report["verdict"]);
}
