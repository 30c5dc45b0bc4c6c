//! On the real Gemma 3 270M, against figures that PyTorch computed. Skipped, with a message, where
//! the weights or the figures are absent: GEMMA_MODEL names the directory of the one,
//! GEMMA_REFERENCE that of the other. And against llama.cpp, on a file of its own.

use crate::common::{directory_in, file_in};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn directories() -> Option<(PathBuf, PathBuf)> {
    Some((directory_in("GEMMA_MODEL", "real")?, directory_in("GEMMA_REFERENCE", "real")?))
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is a number"))
}

/// A drift run on the reference's first tokens.
fn drift(model: &Path, reference: &Path, tokens: usize, args: &[&str]) -> Value {
    let ids: Vec<u32> = serde_json::from_value(json(&reference.join("input_ids.json"))).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let ids = &ids[..tokens.min(ids.len())];
    std::fs::write(file.path(), serde_json::to_string(ids).unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-mlp"));
    command.args(["drift", "--json", "--model"]).arg(model).arg("--ids").arg(file.path());
    let output = command.args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn assert_close(ours: &Value, theirs: &Value, tolerance: f64, what: &str) {
    let ratio = number(ours) / number(theirs);
    assert!((ratio - 1.0).abs() < tolerance, "{what}: {ours} where PyTorch has {theirs}");
}

/// The f32 figures of the whole model: layers, residual stream, logits, perplexity.
#[test]
fn drift_of_gemma3_270m() {
    let Some((model, reference)) = directories() else { return };
    let pytorch = json(&reference.join("drift.json"));
    let drift = drift(&model, &reference, usize::MAX, &[]);
    assert_eq!(drift["tokens"], pytorch["tokens"]);
    let residual = &pytorch["residual"]["f32_tanh -> f32_exact"];
    for (i, layer) in drift["layers"].as_array().unwrap().iter().enumerate() {
        let theirs = &pytorch["mlp_same_input"][i];
        for figure in ["max_abs", "rms", "rel_l2"] {
            let [output, activation] = ["f32_tanh_vs_exact", "f32_act"].map(|k| &theirs[k][figure]);
            assert_close(&layer["output"][figure], output, 0.02, &format!("output {i} {figure}"));
            let what = format!("activation {i} {figure}");
            assert_close(&layer["activation"][figure], activation, 0.02, &what);
        }
        // PyTorch rounds the activation and then the product, we round once: less noise, of one
        // size.
        let floor = number(&layer["floor"]["output"]["rel_l2"]);
        let theirs = number(&theirs["noise_f32_tanh_vs_bf16_tanh"]["rel_l2"]);
        assert!((0.7..1.05).contains(&(floor / theirs)), "floor {i}: {floor} {theirs}");
        // PyTorch's list begins with the embeddings and ends behind the final norm.
        if i + 1 < 18 {
            let ours = &drift["residual"][i]["rel_l2"];
            assert_close(ours, &residual[i + 1], 0.02, &format!("residual {i}"));
        }
    }
    let theirs = &pytorch["pairs"]["f32_tanh -> f32_exact"];
    let ours = &drift["logits"];
    assert_close(&ours["kl_mean_nats"], &theirs["kl_mean"], 0.02, "mean KL");
    assert_close(&ours["kl_median_nats"], &theirs["kl_median"], 0.02, "median KL");
    assert_close(&ours["kl_max_nats"], &theirs["kl_max"], 0.02, "largest KL");
    assert_close(&ours["rel_l2"], &theirs["logits_rel_l2"], 0.02, "logits");
    assert_close(&ours["max_abs"], &theirs["logits_max_abs"], 0.02, "largest difference");
    assert_close(&ours["ppl_a"], &theirs["ppl_ref"], 1e-5, "perplexity of a");
    assert_close(&ours["ppl_b"], &theirs["ppl_other"], 1e-5, "perplexity of b");
    let flips = (1.0 - number(&ours["top1_agreement"])) * number(&drift["tokens"]);
    assert!((flips - 1.0).abs() <= 1.01, "{flips} flips");
    // bf16 agrees in size alone: its rounding is chaotic.
    let floor = number(&drift["floor"]["logits"]["kl_mean_nats"]);
    assert!((4e-4..2e-3).contains(&floor), "{floor}");
}

/// Gradients of gate, up and down in every layer.
#[test]
fn gradients_of_gemma3_270m() {
    let Some((model, reference)) = directories() else { return };
    let pytorch = json(&reference.join("grad.json"));
    let drift = drift(&model, &reference, 256, &["--gradients"]);
    for (i, layer) in drift["gradients"].as_array().unwrap().iter().enumerate() {
        for matrix in ["gate_proj", "up_proj", "down_proj"] {
            let theirs = &pytorch["gradients"][format!("layers.{i}.mlp.{matrix}")];
            assert_close(
                &layer[matrix]["rel_l2"],
                &theirs["rel_l2"],
                0.01,
                &format!("{i} {matrix}"),
            );
            let [a, b] = [&layer[matrix], theirs].map(|g| 1.0 - number(&g["cosine"]));
            assert!((a / b - 1.0).abs() < 0.02, "cosine of {i} {matrix}: {a} {b}");
        }
    }
    let input = &pytorch["gradients"]["input embeddings (after scaling)"]["rel_l2"];
    assert_close(&drift["input_gradient"]["rel_l2"], input, 0.01, "input");
    assert_close(&drift["loss"][0], &pytorch["loss_A"], 1e-6, "loss");
}

/// llama.cpp on a quantised file, made to round alike: of each operation on its own input the last bits alone are left.
/// GEMMA_GGUF names the file, GEMMA_LLAMA_DUMP what `capture --script llama.cpp` wrote of it on x86-64.
#[test]
fn llama_cpp_on_its_own_file() {
    let file = |variable: &str| file_in(variable, "gguf");
    let (Some(gguf), Some(dump)) = (file("GEMMA_GGUF"), file("GEMMA_LLAMA_DUMP")) else { return };
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-mlp"));
    command.args(["compare", "--json", "--like-theirs", "--model"]).arg(gguf).arg(dump);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let compared: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut seen = 0;
    for layer in compared["layers"].as_array().unwrap() {
        for point in layer["points"].as_array().unwrap() {
            let (name, distance) = (point["point"].as_str().unwrap(), &point["same_input"]);
            // The heads' outputs are rounded on its way, and not in the dump: a number may move across a step.
            let bound = if name == "attn.output" { 1e-3 } else { 1e-6 };
            assert!(number(&distance["rel_l2"]) < bound, "{layer}: {name}");
            seen += 1;
        }
    }
    assert!(seen > 0);
}

/// Porting differences: PyTorch's order, and its size.
#[test]
fn rank_of_gemma3_270m() {
    let Some((model, reference)) = directories() else { return };
    let pytorch = json(&reference.join("rank.json"));
    for (tokens, names) in [
        (
            512,
            &[
                ("RMSNorm: w instead of 1+w", "norm: w in place of 1+w"),
                ("q/k norm left out", "q/k norm left out"),
                ("RoPE: global base (1e6) in every layer", "RoPE: the global base in every layer"),
                ("no BOS", "no BOS"),
                ("SiLU instead of GELU", "GELU: SiLU in its place"),
                (
                    "RoPE: all in bf16 (positions, inverse frequencies, angle, cos/sin)",
                    "RoPE: all in bf16, positions too",
                ),
                ("RoPE: local base (1e4) in every layer", "RoPE: the local base in every layer"),
                ("sigmoid GELU, x*sigmoid(1.702x)", "GELU: x*sigmoid(1.702x)"),
                (
                    "RMSNorm: Llama's order, bf16(bf16(norm x) * bf16(1+w))",
                    "norm: Llama's order of rounding to bf16",
                ),
                ("RMSNorm: whole output rounded to bf16", "norm: output rounded to bf16"),
                ("RMSNorm: (1+w) rounded to bf16", "norm: 1+w rounded to bf16"),
                ("RoPE: cos/sin in f32, rounded to bf16", "RoPE: cosine and sine rounded to bf16"),
                (
                    "RoPE: inverse frequencies rounded to bf16, rest f32",
                    "RoPE: inverse frequencies rounded to bf16",
                ),
                (
                    "embedding scale 25.25 (sqrt(640) rounded to bf16)",
                    "embedding scale rounded to bf16",
                ),
                ("GELU exact (erf) instead of tanh", "GELU: exact (erf)"),
            ][..],
        ),
        (
            1024,
            &[
                ("sliding window ignored (full attention in all layers)", "sliding window ignored"),
                (
                    "RoPE: all in bf16 (positions, inverse frequencies, angle, cos/sin)",
                    "RoPE: all in bf16, positions too",
                ),
                ("sliding window 511 instead of 512", "sliding window one shorter"),
                ("sliding window 513 instead of 512", "sliding window one longer"),
            ],
        ),
    ] {
        // All at first, then those alone that a longer text is needed for.
        let named = names.iter().map(|(_, name)| *name).filter(|_| tokens > 512);
        let args: Vec<_> = std::iter::once("--rank").chain(named).collect();
        let drift = drift(&model, &reference, tokens, &args);
        let ranking = drift["ranking"].as_array().unwrap();
        let ours = |name: &str| ranking.iter().position(|row| row["difference"] == name).unwrap();
        let places: Vec<_> = names.iter().map(|(_, name)| ours(name)).collect();
        assert!(places.is_sorted(), "{places:?}");
        for (theirs, name) in names {
            let is = |row: &&Value| row["difference"] == *theirs && row["tokens"] == tokens;
            let theirs = pytorch["rows"].as_array().unwrap().iter().find(is).unwrap();
            let ours = &ranking[ours(name)];
            assert_close(&ours["kl_mean_nats"], &theirs["kl_mean"], 0.1, name);
            assert_close(&ours["rel_l2"], &theirs["logits_rel_l2"], 0.1, name);
        }
    }
}

/// Greedy continuations, token by token, under both activations.
#[test]
fn greedy_of_gemma3_270m() {
    let Some((model, reference)) = directories() else { return };
    let pytorch = json(&reference.join("greedy.json"));
    for name in ["english_story", "japanese", "rust"] {
        let theirs = &pytorch["prompts"][name];
        let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-mlp"));
        command.args(["generate", "--json", "--prompt", theirs["prompt"].as_str().unwrap()]);
        let output = command.arg("--model").arg(&model).output().unwrap();
        let ours: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(ours["prompt"], theirs["input_ids"]);
        for (side, run) in [("a", "f32_A"), ("b", "f32_B")] {
            // PyTorch's runs go on behind the end of a text.
            let ids = ours[side]["ids"].as_array().unwrap();
            assert_eq!(
                ids[..],
                theirs["runs"][run]["ids"].as_array().unwrap()[..ids.len()],
                "{name}"
            );
        }
    }
}
