//! On the real Gemma 3 270M, against figures that PyTorch computed. Skipped, with a message, where
//! the weights or the figures are absent: GEMMA_MODEL names the directory of the one,
//! GEMMA_REFERENCE that of the other.

use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

fn directory(variable: &str) -> Option<PathBuf> {
    let dir = std::env::var_os(variable).map(PathBuf::from).filter(|dir| dir.is_dir());
    if dir.is_none() {
        eprintln!("skipped: {variable} does not name a directory");
    }
    dir
}

#[test]
fn first_layer_of_gemma3_270m() {
    let (Some(model), Some(reference)) = (directory("GEMMA_MODEL"), directory("GEMMA_REFERENCE"))
    else {
        return;
    };
    let pytorch: Value =
        serde_json::from_str(&std::fs::read_to_string(reference.join("drift.json")).unwrap())
            .unwrap();
    let pytorch = &pytorch["mlp_same_input"][0];
    let drift = |dtype: &str| -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_gemma-mlp"))
            .args(["drift", "--json", "--layers", "0", "--dtype", dtype, "--model"])
            .arg(&model)
            .arg("--ids")
            .arg(reference.join("input_ids.json"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["layers"][0].clone()
    };
    let ratio = |ours: &Value, theirs: &Value| ours.as_f64().unwrap() / theirs.as_f64().unwrap();
    let f32 = drift("f32");
    for figure in ["max_abs", "rms", "rel_l2"] {
        let output = ratio(&f32["output"][figure], &pytorch["f32_tanh_vs_exact"][figure]);
        let activation = ratio(&f32["activation"][figure], &pytorch["f32_act"][figure]);
        assert!((output - 1.0).abs() < 0.02, "output {figure}: {output}");
        assert!((activation - 1.0).abs() < 0.02, "activation {figure}: {activation}");
    }
    // PyTorch rounds the activation and then the product, we round once: less noise, of one size.
    let bf16 = drift("bf16");
    let output = ratio(&bf16["output"]["rel_l2"], &pytorch["bf16_tanh_vs_exact"]["rel_l2"]);
    let floor = ratio(
        &bf16["floor"]["output"]["rel_l2"],
        &pytorch["noise_f32_tanh_vs_bf16_tanh"]["rel_l2"],
    );
    assert!((0.7..1.1).contains(&output) && (0.9..1.02).contains(&floor), "{output} {floor}");
}
