//! PaliGemma's prompts and RecurrentGemma, from the command line.

use serde_json::Value;
use std::process::{Command, Output};

const GOLDENS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens/families");

/// A command on a small checkpoint.
fn command(args: &[&str], model: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gemma-mlp"));
    command.args(args).arg("--model").arg(format!("{GOLDENS}/{model}"));
    command
}

/// Runs it on 23 token ids, of 64 words.
fn run(args: &[&str], model: &str) -> Output {
    run_on(args, model, &[[2].into_iter().chain((1..23).map(|i| 3 + i * 37 % 60)).collect()])
}

fn run_on(args: &[&str], model: &str, texts: &[Vec<i64>]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let ids = dir.path().join("ids.json");
    std::fs::write(&ids, format!("{texts:?}")).unwrap();
    let mut command = command(args, model);
    if args[0] != "inspect" {
        command.arg("--ids").arg(&ids);
    }
    if args[0] == "capture" {
        command.arg("--out").arg(dir.path().join("dump.safetensors"));
    }
    command.output().unwrap()
}

fn json(args: &[&str], model: &str) -> Value {
    of(args, run(args, model))
}

fn json_on(args: &[&str], model: &str, texts: &[Vec<i64>]) -> Value {
    of(args, run_on(args, model, texts))
}

fn of(args: &[&str], output: Output) -> Value {
    assert!(output.status.success(), "{args:?} {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn remarks(result: &Value) -> Vec<&str> {
    let remarks = result["remarks"].as_array().unwrap();
    remarks.iter().map(|remark| remark["text"].as_str().unwrap()).collect()
}

#[test]
fn every_command_runs() {
    for model in ["recurrent", "paligemma-gemma", "paligemma-gemma2"] {
        let inspection = json(&["inspect", "--json"], model);
        assert_eq!(inspection["stacks"][0]["attention"], "supported");
        let drift = json(&["drift", "--json", "--rank", "--gradients"], model);
        assert!(drift["logits"]["kl_mean_nats"].as_f64().unwrap() > 0.0);
        assert!(drift["ranking"].as_array().is_some_and(|ranking| ranking.len() > 8));
        assert!(drift["blocks_only"].is_null());
        let generation = json(&["generate", "--json", "-n", "5"], model);
        assert!(!generation["a"]["ids"].as_array().unwrap().is_empty());
        let forward = json(&["forward", "--json"], model);
        assert_eq!(forward["top"][0].as_array().unwrap().len(), 5);
        assert!(run(&["capture", "--json"], model).status.success());
    }
}

/// Every GELU follows a side, those of recurrences too: the drift is what transformers' models have between them.
#[test]
fn drift_is_transformers_own() {
    let mistakes = std::fs::read_to_string(format!("{GOLDENS}/mistakes.json")).unwrap();
    let mistakes: Value = serde_json::from_str(&mistakes).unwrap();
    for (model, flags) in [
        ("recurrent", &[][..]),
        ("paligemma-gemma", &["--prefix-tokens", "5"]),
        ("paligemma-gemma2", &["--prefix-tokens", "5"]),
    ] {
        let mut known = mistakes["mistakes"].as_array().unwrap().iter();
        let known = known.find(|m| m["slug"] == "exact-gelu" && m["model"] == model).unwrap();
        let golden = format!("{GOLDENS}/{model}/golden.safetensors");
        let golden = candle_core::safetensors::load(golden, &candle_core::Device::Cpu).unwrap();
        let ids = golden["input_ids"].to_vec2::<i64>().unwrap();
        let drift = json_on(&[&["drift", "--json", "--dtype", "f64"], flags].concat(), model, &ids);
        for figure in ["rel_l2", "kl_mean_nats", "kl_max_nats"] {
            let known = known[figure].as_f64().unwrap();
            let ours = drift["logits"][figure].as_f64().unwrap();
            assert!((ours - known).abs() < 0.01 * known, "{model} {figure}: {ours} {known}");
        }
    }
}

/// What a layer with a recurrence does not have is refused, and what it has agrees.
#[test]
fn dumps_of_recurrent_layers() {
    let dir = tempfile::tempdir().unwrap();
    let [dump, odd] = ["dump", "odd"].map(|name| dir.path().join(format!("{name}.safetensors")));
    let mut capture = command(&["capture"], "recurrent");
    let ids = dir.path().join("ids.json");
    std::fs::write(&ids, "[2, 7, 9, 40]").unwrap();
    assert!(capture.arg("--ids").arg(&ids).arg("--out").arg(&dump).status().unwrap().success());
    let mut tensors = candle_core::safetensors::load(&dump, &candle_core::Device::Cpu).unwrap();
    let compare = |dump| command(&["compare"], "recurrent").arg(dump).output().unwrap();
    assert_eq!(compare(&dump).status.code(), Some(0));
    let queries = tensors.remove("layers.2.attn.q").unwrap();
    tensors.insert("layers.0.attn.q".into(), queries);
    candle_core::safetensors::save(&tensors, &odd).unwrap();
    let output = compare(&odd);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("layer 0 has a recurrence in place of attention"), "{said}");
}

/// The flag reaches every way of running a model, and what it means stands beside the result.
#[test]
fn prompts_of_paligemma() {
    let first = |flag: &[&str]| {
        let forward = json(&[&["forward", "--json"], flag].concat(), "paligemma-gemma2");
        let remarks = remarks(&forward).join("\n");
        (forward["top"][0][0]["logit"].as_f64().unwrap(), remarks)
    };
    let (all, said) = first(&[]);
    assert!(said.contains("as a prompt") && said.contains("--prefix-tokens"), "{said}");
    assert_eq!(first(&["--prefix-tokens", "all"]), (all, said));
    let (none, said) = first(&["--prefix-tokens", "0"]);
    assert!(none != all && said.contains("no tokens are read as a prompt"), "{said}");
    let (some, said) = first(&["--prefix-tokens", "9"]);
    assert!(![all, none].contains(&some) && said.contains("the first 9 tokens"), "{said}");
    for command in ["drift", "generate", "inspect"] {
        let result = json(&[command, "--json", "--prefix-tokens", "9"], "paligemma-gemma");
        let said = remarks(&result).join("\n");
        assert!(said.contains("the first 9 tokens"), "{command}: {said}");
    }
}

/// A floor on a part of the text would be another model's.
#[test]
fn the_floor_of_a_prompt_is_measured_on_all_of_it() {
    let floor = |flags: &[&str]| {
        let drift = json(&[&["drift", "--json"], flags].concat(), "paligemma-gemma");
        drift["floor"].clone()
    };
    assert_eq!(floor(&["--floor-tokens", "4"]), floor(&[]));
    let causal = ["--prefix-tokens", "0"];
    assert_ne!(floor(&[&causal[..], &["--floor-tokens", "4"]].concat()), floor(&causal));
}

#[test]
fn what_is_refused() {
    for (args, model, words) in [
        (vec!["forward", "--prefix-tokens", "5"], "recurrent", "RecurrentGemma: no part of a text"),
        (vec!["forward", "--prefix-tokens", "some"], "paligemma-gemma", "write 12, or all"),
        (vec!["generate", "--prefix-tokens", "30"], "paligemma-gemma", "the prompt has 23 tokens"),
        (vec!["generate", "--prompt", "a"], "paligemma-gemma", "cannot be used with"),
    ] {
        let output = run(&args, model);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(words), "{args:?}: {said}");
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
    }
}
